"""Statistics over rows that ended: estimates of further rows, and comparison with known answers. Pure."""
