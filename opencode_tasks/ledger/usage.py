"""Sessions, steps (model calls) and inner retries of attempts, as opencode reported them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, case, func, literal_column

from opencode_tasks.domain.records import AttemptRecord, InnerRetry, Session, Step
from opencode_tasks.ledger.schema import inner_retries, sessions, usage
from opencode_tasks.ledger.upsert import Upsert, do_nothing
from opencode_tasks.ledger.usage_sums import SUM_COLUMNS

PRICE_COLUMNS = ("cost_reported_pico", "cost_computed_pico", "price_source")


def write_usage(
    connection: Connection, records: Sequence[tuple[AttemptRecord, Mapping[str, Any], str]]
) -> None:
    """Write the sessions, steps and inner retries of attempts.

    For each attempt: its record, its origin (``attempt_id``, ``run_id``, ``row_id``) and the key of
    its row. A second record of an attempt fills in what was unknown and changes nothing else.
    """
    _write_sessions(
        connection, [(session, origin) for record, origin, _ in records for session in record.sessions]
    )
    _write_steps(
        connection,
        [(step, {**origin, "row_key": key}) for record, origin, key in records for step in record.steps],
    )
    _write_inner_retries(
        connection,
        [(retry, origin["attempt_id"]) for record, origin, _ in records for retry in record.inner_retries],
    )


def count_turns(messages: Sequence[Mapping[str, Any]]) -> int:
    """The number of assistant messages in a session."""
    infos = (cast("Mapping[str, Any]", message.get("info") or {}) for message in messages)
    return sum(info.get("role") == "assistant" for info in infos)


def pack_messages(messages: Sequence[Mapping[str, Any]]) -> bytes:
    """Messages as compressed JSON."""
    return zlib.compress(json.dumps(list(messages)).encode())


def unpack_messages(data: bytes | None) -> list[dict[str, Any]] | None:
    """The messages that ``pack_messages`` packed; None if they are unknown."""
    return None if data is None else json.loads(zlib.decompress(data))


def _keep_messages(insert: Any) -> Any:
    # A session that a later attempt continues stays with its first attempt, and has more messages. The
    # events of an attempt that was cut short have only those of its last prompt.
    none: ColumnElement[int] = literal_column("0")
    has_more = func.coalesce(insert.excluded.turns, none) >= func.coalesce(sessions.c.turns, none)
    found = {name: func.coalesce(insert.excluded[name], sessions.c[name]) for name in ("messages", "turns")}
    return insert.on_conflict_do_update(
        index_elements=["session_id"],
        set_={name: case((has_more, new), else_=sessions.c[name]) for name, new in found.items()},
    )


_SESSIONS = Upsert(sessions, sessions.c.keys(), _keep_messages)


def _write_sessions(connection: Connection, found: Sequence[tuple[Session, Mapping[str, Any]]]) -> None:
    values = [
        {
            **origin,
            "session_id": session.session_id,
            "parent_id": session.parent_id,
            "messages": pack_messages(session.messages) if session.messages else None,
            "turns": count_turns(session.messages) if session.messages else None,
        }
        for session, origin in found
    ]
    _SESSIONS.execute(connection, values)


def _keep_known_values(insert: Any) -> Any:
    is_priced_now = usage.c.cost_pico.is_(None) & insert.excluded.cost_pico.is_not(None)
    names = (*SUM_COLUMNS, *PRICE_COLUMNS)
    return insert.on_conflict_do_update(
        index_elements=["session_id", "step_id"],
        set_={
            **{name: func.coalesce(usage.c[name], insert.excluded[name]) for name in names},
            "cost_source": case((is_priced_now, insert.excluded.cost_source), else_=usage.c.cost_source),
        },
    )


_STEPS = Upsert(usage, usage.c.keys(), _keep_known_values)


def _write_steps(connection: Connection, steps: Sequence[tuple[Step, Mapping[str, Any]]]) -> None:
    values = [
        {
            **origin,
            "session_id": step.session_id,
            "step_id": step.step_id,
            "message_id": step.message_id,
            "model_ref": step.model_ref,
            "agent": step.agent,
            **{name: getattr(step.usage, name) for name in SUM_COLUMNS},
            "cost_source": step.cost_source,
            **{name: getattr(step, name) for name in PRICE_COLUMNS},
            "finish_reason": step.finish_reason,
            "ended_at": step.ended_at,
        }
        for step, origin in steps
    ]
    _STEPS.execute(connection, values)


_INNER_RETRIES = Upsert(inner_retries, inner_retries.c.keys(), do_nothing)


def _write_inner_retries(connection: Connection, retries: Sequence[tuple[InnerRetry, str]]) -> None:
    values = [
        {
            "session_id": retry.session_id,
            "number": retry.number,
            "attempt_id": attempt_id,
            "message": retry.message,
            "next_at": retry.next_at,
        }
        for retry, attempt_id in retries
    ]
    _INNER_RETRIES.execute(connection, values)
