"""From an input table and options to a checked plan."""
