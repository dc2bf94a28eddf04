"""Files of rows: addresses in cells, contents, and verified copies for opencode."""
