"""What ``opencode run --format json`` writes to stdout: one JSON event a line (opencode 1.18.33).

An event is ``{"type", "timestamp", "sessionID", "part" | "error"}``. Other lines can stand
between them (warnings, a tool's own output), and a killed process cuts the last one.
"""

from __future__ import annotations

import json
import re
from typing import Any

from opencode_tasks.domain.json_values import mapping_in

_SESSION_ID = re.compile(r"(?<![0-9A-Za-z_])ses_[0-9A-Za-z_]+")


def parse_events(stdout: str) -> list[dict[str, Any]]:
    """The lines that are JSON objects, in order; all other lines are passed over."""
    events: list[dict[str, Any]] = []
    # Not splitlines: JSON text may hold U+2028 and its like unescaped.
    for line in stdout.split("\n"):
        if not line.lstrip().startswith("{"):
            continue
        try:
            event: Any = json.loads(line)
        except (ValueError, RecursionError):
            continue
        events.append(event)
    return events


def parse_session_id(stdout: str) -> str | None:
    """The session of a run: of its first event that names one, at its top level or in ``part``.

    Where no event does, the first ``ses_…`` in the text; None where there is none.
    """
    for event in parse_events(stdout):
        for holder in (event, mapping_in(event.get("part"))):
            session_id = holder.get("sessionID")
            if isinstance(session_id, str) and session_id:
                return session_id
    found = _SESSION_ID.search(stdout)
    return found.group() if found else None


def parse_run_error(stdout: str) -> dict[str, Any] | None:
    """The first ``{"name", "data"}`` of an event of type ``error``, None without one.

    ``data`` is {} where opencode gave none; an error without a name is passed over.
    """
    for event in parse_events(stdout):
        error = mapping_in(event.get("error"))
        name = error.get("name")
        if event.get("type") == "error" and isinstance(name, str):
            return {"name": name, "data": dict(mapping_in(error.get("data")))}
    return None
