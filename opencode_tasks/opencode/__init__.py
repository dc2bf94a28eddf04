"""Ways to run opencode: its binary, configuration, server, command line and instance directories."""
