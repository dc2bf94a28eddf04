"""Output of ``opencode run --format json`` on stdout: one JSON event per line (opencode 1.18.33). Pure.

An event is ``{"type", "timestamp", "sessionID", "part" | "error"}``. Other lines can occur
between them, such as warnings and output of tools, and the last line of a killed process can be incomplete.
"""

from __future__ import annotations

import json
import re
from typing import Any

from opencode_tasks.domain.json_values import mapping_in

_SESSION_ID = re.compile(r"(?<![0-9A-Za-z_])ses_[0-9A-Za-z_]+")


def parse_events(stdout: str) -> list[dict[str, Any]]:
    """The lines that are JSON objects, in order; all other lines are skipped."""
    events: list[dict[str, Any]] = []
    # Not splitlines: JSON text may contain U+2028 and similar characters unescaped.
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
    """Return the session id of a run of ``opencode run --format json``.

    It is the ``sessionID`` of the first event that has one, at its top level or in ``part``. If no event has
    one, it is the first ``ses_…`` in the text. Lines that are not JSON objects are skipped.

    Args:
        stdout: Everything that opencode wrote to stdout: one JSON object a line.

    Returns:
        The session id; None if the text has none.

    Examples:
        >>> from opencode_tasks import parse_session_id
        >>> parse_session_id('{"type": "text", "part": {"sessionID": "ses_1", "text": "yes"}}')
        'ses_1'
        >>> parse_session_id("export failed for ses_2")
        'ses_2'
        >>> parse_session_id("") is None
        True
    """
    for event in parse_events(stdout):
        for holder in (event, mapping_in(event.get("part"))):
            session_id = holder.get("sessionID")
            if isinstance(session_id, str) and session_id:
                return session_id
    found = _SESSION_ID.search(stdout)
    return found.group() if found else None


def parse_run_error(stdout: str) -> dict[str, Any] | None:
    """Return the first error of a run of ``opencode run --format json``.

    Lines that are not JSON objects and errors without a name are skipped.

    Args:
        stdout: Everything that opencode wrote to stdout: one JSON object a line.

    Returns:
        ``{"name": …, "data": {…}}`` of the first event of type ``error``, with empty ``data`` if opencode
        gave none. None if there is no such event.

    Examples:
        >>> from opencode_tasks import parse_run_error
        >>> event = '{"type": "error", "error": {"name": "APIError", "data": {"statusCode": 429}}}'
        >>> parse_run_error(event)
        {'name': 'APIError', 'data': {'statusCode': 429}}
        >>> parse_run_error('{"type": "text"}') is None
        True
    """
    for event in parse_events(stdout):
        error = mapping_in(event.get("error"))
        name = error.get("name")
        if event.get("type") == "error" and isinstance(name, str):
            return {"name": name, "data": dict(mapping_in(error.get("data")))}
    return None
