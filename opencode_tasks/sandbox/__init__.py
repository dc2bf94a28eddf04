"""Isolation of the programs of a row: files, processes, network, keys."""
