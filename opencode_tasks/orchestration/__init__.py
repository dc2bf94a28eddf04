"""Rows through opencode as Prefect tasks and flows."""
