"""Writes trace entries in a spawned process, which imports this module."""

from __future__ import annotations

from datetime import datetime

from opencode_tasks.outcomes.trace import append_trace


def write_many(log_dir: str, started: datetime, writer: int) -> None:
    for number in range(20):
        session = f"ses_{writer}x{number}"
        append_trace(log_dir, "log", started, prompt="p", session_id=session, trace=session * 5000)
