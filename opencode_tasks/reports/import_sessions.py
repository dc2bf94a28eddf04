"""Import of sessions that ``opencode export`` wrote: their costs become part of a ledger and its reports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opencode_tasks.domain.cost import PriceBook
from opencode_tasks.domain.json_values import list_in, mapping_in, text_in, time_in
from opencode_tasks.domain.money import format_usd
from opencode_tasks.domain.records import AttemptRecord, Session
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import Ledger
from opencode_tasks.outcomes.session_messages import (
    answer_text,
    assistant_messages,
    imported_steps,
    model_ref,
    parts_of,
)

OPTION = "--import-session"


def import_sessions(files: Sequence[Path], ledger_url: str, prices: PriceBook) -> Iterator[str]:
    """Import files into the ledger and yield a line about each; all files are validated first.

    A session of a run that is in the ledger is not imported, because its cost is already counted. Raises
    InputError with a line for each file that is not an exported session.
    """
    exports = [_read(path) for path in files]
    if faults := [export for export in exports if isinstance(export, str)]:
        raise InputError(tuple(faults))
    with Ledger.open(ledger_url) as ledger:
        for path, export in zip(files, exports, strict=True):
            if not isinstance(export, str):
                yield f"{path}: {_import(ledger, export, prices)}"


def _read(path: Path) -> Mapping[str, Any] | str:
    """Return the export in a file, or its fault as text."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"{OPTION}: cannot read {path}: {getattr(error, 'strerror', None) or error}"
    try:
        # The file can begin with the line that `opencode export` writes for the user.
        content = json.loads(text[text.index("{") :])
    except ValueError:
        return f"{OPTION}: {path} is not JSON; create the file with: opencode export SESSION > FILE"
    export = mapping_in(content)
    if _is_of_version_2(export):
        return f"{OPTION}: {path} is a session of opencode 2, which cannot be imported yet"
    session_id = text_in(mapping_in(export.get("info")).get("id"))
    if session_id is None or not isinstance(export.get("messages"), list):
        return f"{OPTION}: {path} is not an exported session: it has no info.id or messages"
    return export


def _is_of_version_2(export: Mapping[str, Any]) -> bool:
    """Whether opencode 2 wrote an export: its messages have a type or ``content``, and no ``info``."""
    versions = [text_in(mapping_in(export.get(name)).get("version")) for name in ("info", "session")]
    messages = [mapping_in(message) for message in list_in(export.get("messages"))]
    return any((version or "").removeprefix("v").startswith("2.") for version in versions) or any(
        "info" not in message and ("content" in message or "type" in message) for message in messages
    )


def _import(ledger: Ledger, export: Mapping[str, Any], prices: PriceBook) -> str:
    info = mapping_in(export.get("info"))
    session_id = str(info["id"])
    messages = [mapping_in(message) for message in list_in(export.get("messages"))]
    steps = [prices.priced(step) for step in imported_steps(messages, session_id)]
    session = Session(
        session_id=session_id, parent_id=text_in(info.get("parentID")), messages=messages, steps=steps
    )
    known_run_id = ledger.imports.run_of_session(session_id)
    if known_run_id not in (None, f"import-{session_id}"):
        return f"session {session_id} is already part of run {known_run_id}"
    times = mapping_in(info.get("time"))
    started_at = time_in(times.get("created")) or datetime.fromtimestamp(0, UTC)
    ledger.imports.add(
        AttemptRecord(session_id=session_id, sessions=[session]),
        prompt=_prompt(messages),
        text=answer_text(messages),
        model_ref=model_ref(messages),
        version=text_in(info.get("version")),
        started_at=started_at,
        ended_at=time_in(times.get("updated")) or started_at,
    )
    costs = [step.usage.cost_pico for step in steps]
    cost = format_usd(sum(cost or 0 for cost in costs)) + (" + unknown" if None in costs else "")
    calls = f"{len(steps)} model calls in {len(assistant_messages(messages))} turns"
    return f"session {session_id}: {calls}, {cost}"


def _prompt(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the first user message."""
    for message in messages:
        if mapping_in(message.get("info")).get("role") == "user":
            return "".join(text_in(part.get("text")) or "" for part in parts_of(message, "text"))
    return ""
