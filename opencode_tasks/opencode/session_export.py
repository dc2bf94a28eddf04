"""Exports of sessions by ``opencode export``, which may come from inside of a sandbox: nothing is trusted.

They take a start of opencode for each session. A session whose events are all in the journal needs none.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from opencode_tasks.domain.json_values import list_in, mapping_in, text_in
from opencode_tasks.domain.records import Session
from opencode_tasks.outcomes.session_messages import session_of

EXPORT_LIMIT_S = 60.0
# The export of opencode is read into memory.
MAX_OUTPUT_BYTES = 500_000_000
# A session and its children.
MAX_SESSIONS = 200
# The id of a session, which names files too.
SESSION_ID = re.compile(r"ses_[0-9A-Za-z]+")


def exported_messages(export: Path) -> list[Mapping[str, Any]] | None:
    """The messages in a file that ``opencode export`` wrote; None if it is no export, or too large."""
    try:
        if export.stat().st_size > MAX_OUTPUT_BYTES:
            return None
        messages: Any = mapping_in(json.loads(export.read_text(encoding="utf-8"))).get("messages")
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(messages, list):
        return None
    return [mapping_in(message) for message in cast("list[Any]", messages)]


async def exported_family(
    session_id: str,
    export: Callable[[str], Sequence[Mapping[str, Any]] | None],
    unpriced: frozenset[str],
    known: Mapping[str, str | None] | None = None,
) -> list[Session]:
    """A session and its children, root first, as ``export`` returns their messages from a thread.

    The tool ``task`` names the children; ``known`` are further ones with their parents. A session without
    messages is left out. ``export`` is called at most MAX_SESSIONS times.
    """
    found: list[Session] = []
    parents: dict[str, str | None] = {session_id: None} | dict(known or {})
    waiting = [key for key in parents if SESSION_ID.fullmatch(key)]
    for _ in range(MAX_SESSIONS):
        if not waiting:
            break
        key = waiting.pop(0)
        messages = await asyncio.to_thread(export, key)
        if not messages:
            continue
        found.append(session_of(key, messages, parent_id=parents[key], unpriced=unpriced))
        new = [child for child in dict.fromkeys(child_ids(messages)) if child not in parents]
        parents |= dict.fromkeys(new, key)
        waiting += new
    return found


def child_ids(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The ids of the sessions of sub-agents, as the calls of the tool ``task`` name them."""
    found: list[str] = []
    for part in (mapping_in(part) for message in messages for part in list_in(message.get("parts"))):
        if part.get("tool") == "task":
            child = text_in(mapping_in(mapping_in(part.get("state")).get("metadata")).get("sessionId"))
            if child is not None and SESSION_ID.fullmatch(child):
                found.append(child)
    return found
