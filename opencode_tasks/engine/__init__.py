"""From a plan to batches of rows to attempts and outcomes."""
