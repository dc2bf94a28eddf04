"""Trace of a session as text, and the log file to which traces are appended.

The shapes of the parts are those of opencode 1.18.33's export: ``text``, ``reasoning`` and ``tool``.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from opencode_tasks.domain.json_values import list_in, mapping_in
from opencode_tasks.outcomes.reasoning_text import split_reasoning
from opencode_tasks.outcomes.session_messages import assistant_messages

VALUE_LIMIT = 2_000
PROMPT_LIMIT = 500

_RULE = "=" * 80


@dataclass(frozen=True, slots=True)
class TraceBlock:
    """A part of a session: ``title`` is "Response", "Thinking", "Tool Call: name" or "Tool Result"."""

    title: str
    text: str


def trace_blocks(message: Mapping[str, Any]) -> Iterator[TraceBlock]:
    """The parts of a message, in order; ``message`` is opencode's ``{"info", "parts"}``."""
    for part in list_in(message.get("parts")):
        yield from _part_blocks(mapping_in(part))


def render_trace(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the assistant's messages as text, oldest first; "" if there are none.

    ``messages`` is opencode's list of ``{"info", "parts"}``. Blocks begin with ``[Response]``,
    ``[Thinking]``, ``[Tool Call: name]`` (arguments as JSON) or ``[Tool Result]`` (the output or the error)
    and are separated by a blank line. A value of more than 2,000 characters is cut, with a note.
    """
    return "\n\n".join(
        f"[{block.title}]\n{_shortened(block.text)}"
        for message in assistant_messages(messages)
        for block in trace_blocks(message)
    )


def append_trace(
    log_dir: str | os.PathLike[str],
    logging_name: str,
    started: datetime,
    *,
    prompt: str,
    session_id: str | None,
    trace: str,
    at: datetime | None = None,
) -> Path:
    """Append one entry to ``{logging_name}_{YYYYmmdd_HHMMSS}.log`` in ``log_dir``; return its path.

    ``started`` is the time in the name of the file, ``at`` (default: ``started``) the time of the entry.
    Entries of several threads and processes do not mix. Only the owner can read the file.
    """
    name = re.sub(r"[^\w.-]", "_", logging_name)
    path = Path(log_dir) / f"{name}_{started:%Y%m%d_%H%M%S}.log"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    header = (
        f"{_RULE}\nTime: {(at or started).isoformat()}\nSession: {session_id or 'unknown'}\n"
        f"Prompt: {prompt[:PROMPT_LIMIT]}\n{_RULE}\n"
    )
    _append_whole(path, f"{header}{trace}\n\n".encode("utf-8", "backslashreplace"))
    return path


def _append_whole(path: Path, entry: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        # A write can be partial; the lock keeps the parts together. Each call opens the file, so the lock
        # works between threads too. Closing the file releases it.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        rest = memoryview(entry)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def _part_blocks(part: Mapping[str, Any]) -> Iterator[TraceBlock]:
    match part.get("type"):
        case "text" if part.get("text"):
            reasoning, answer = split_reasoning(str(part["text"]))
            if reasoning:
                yield TraceBlock("Thinking", reasoning)
            if answer:
                yield TraceBlock("Response", answer)
        case "reasoning" if part.get("text"):
            yield TraceBlock("Thinking", _text(part["text"]))
        case "tool":
            state = mapping_in(part.get("state"))
            yield TraceBlock(f"Tool Call: {part.get('tool') or 'unknown'}", _json(state.get("input") or {}))
            result = state.get("error") if state.get("status") == "error" else state.get("output")
            if result is not None:
                yield TraceBlock("Tool Result", _text(result))
        case _:
            return


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _shortened(text: str) -> str:
    if len(text) <= VALUE_LIMIT:
        return text
    return f"{text[:VALUE_LIMIT]}… [{len(text) - VALUE_LIMIT:,} characters cut]"
