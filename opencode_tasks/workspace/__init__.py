"""Workspaces: private copies of folders, archives and repositories, and the changes that are made in them."""
