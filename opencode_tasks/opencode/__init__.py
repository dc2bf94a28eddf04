"""Driving opencode: its binary, its config and homes, its server and its command line."""
