"""Files of rows: what a cell names, its content, and verified copies of it for opencode."""
