"""Reading sessions that ``opencode export`` wrote into a ledger, beside the runs of this library."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opencode_tasks.domain.json_values import list_in, mapping_in, text_in, time_in
from opencode_tasks.domain.money import format_usd
from opencode_tasks.domain.price_book import PriceBook
from opencode_tasks.domain.records import AttemptRecord, Session
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import Ledger
from opencode_tasks.outcomes.messages import (
    answer_text,
    assistant_messages,
    imported_steps,
    model_ref,
    parts_of,
)

FLAG = "--import-session"


def import_sessions(files: Sequence[Path], ledger_url: str, prices: PriceBook) -> Iterator[str]:
    """Read files into the ledger, all of them checked first; a line for people on each.

    A session that a run of this library recorded is left as it is: its cost is counted already.
    Raises InputError with every file that is no export of a session.
    """
    exports = [_read(path) for path in files]
    if faults := [found for found in exports if isinstance(found, str)]:
        raise InputError(tuple(faults))
    with Ledger.open(ledger_url) as ledger:
        for path, found in zip(files, exports, strict=True):
            if not isinstance(found, str):
                yield f"{path}: {_import(ledger, found, prices)}"


def _read(path: Path) -> Mapping[str, Any] | str:
    """The export in a file, or what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"{FLAG}: cannot read {path}: {getattr(error, 'strerror', None) or error}"
    try:
        # `opencode export` may be saved with the line that it writes for people before it.
        found = json.loads(text[text.index("{") :])
    except ValueError:
        return f"{FLAG}: {path} is not JSON; write it with: opencode export SESSION > FILE"
    value = mapping_in(found)
    session_id = text_in(mapping_in(value.get("info")).get("id"))
    if session_id is None or not isinstance(value.get("messages"), list):
        return f"{FLAG}: {path} is not what `opencode export` writes: it lacks info.id or messages"
    return value


def _import(ledger: Ledger, found: Mapping[str, Any], prices: PriceBook) -> str:
    info = mapping_in(found.get("info"))
    session_id = str(info["id"])
    messages = [mapping_in(message) for message in list_in(found.get("messages"))]
    steps = [prices.priced(step) for step in imported_steps(messages, session_id)]
    session = Session(
        session_id=session_id, parent_id=text_in(info.get("parentID")), messages=messages, steps=steps
    )
    known = ledger.imports.run_of_session(session_id)
    run_id = f"import-{session_id}"
    if known not in (None, run_id):
        return f"session {session_id} is in run {known} already"
    times = mapping_in(info.get("time"))
    started = time_in(times.get("created")) or datetime.fromtimestamp(0, UTC)
    ledger.imports.add(
        AttemptRecord(session_id=session_id, sessions=[session]),
        prompt=_prompt(messages),
        text=answer_text(messages),
        model_ref=model_ref(messages),
        version=text_in(info.get("version")),
        started_at=started,
        ended_at=time_in(times.get("updated")) or started,
    )
    costs = [step.usage.cost_pico for step in steps]
    told = format_usd(sum(cost or 0 for cost in costs)) + (" and an unknown part" if None in costs else "")
    calls = f"{len(steps)} model calls in {len(assistant_messages(messages))} turns"
    return f"session {session_id}: {calls}, {told}"


def _prompt(messages: Sequence[Mapping[str, Any]]) -> str:
    """The first thing that the user asked."""
    for message in messages:
        if mapping_in(message.get("info")).get("role") == "user":
            return "".join(text_in(part.get("text")) or "" for part in parts_of(message, "text"))
    return ""
