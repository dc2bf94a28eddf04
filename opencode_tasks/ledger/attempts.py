"""What each attempt bought and how it ended: written before the prompt is sent and after its end."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, RowMapping, Text, bindparam, case, func, select, true

from opencode_tasks.domain.records import AttemptRecord, InnerRetry, Session, Step
from opencode_tasks.errors import OpenCodeError, RateLimitError
from opencode_tasks.ledger import budgets
from opencode_tasks.ledger.leases import Lease
from opencode_tasks.ledger.schema import attempts, inner_retries, rows, sessions, usage
from opencode_tasks.ledger.totals import SUMMED
from opencode_tasks.ledger.upsert import Upsert, do_nothing

MESSAGE_LIMIT = 4000
# An attempt whose process died has this as its error, and so has a row whose worker died.
CRASHED = "crashed"
PRICED = ("cost_reported_pico", "cost_computed_pico", "price_source")


def attempt_id(run_id: str, row_id: str, lease: Lease, attempt: int) -> str:
    """The id of an attempt: the same one when it is written twice."""
    name = "\0".join((run_id, row_id, lease.row_key, str(lease.fence), str(attempt)))
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name.encode("utf-8", "replace").decode()))


_BEGUN = Upsert(
    attempts,
    (
        *("attempt_id", "run_id", "row_id", "row_key", "attempt", "fence", "owner", "started_at", "status"),
        *("node_id", "host", "backend", "data_dir", "usage_known", "gate_id", "reserved_pico"),
        "call_most_pico",
    ),
    do_nothing,
)


def write_begun(connection: Connection, claimed: Sequence[Mapping[str, Any]]) -> None:
    """Write that attempts start, under leases that were taken in this transaction."""
    _BEGUN.execute(connection, [{**one, "status": "open", "usage_known": False} for one in claimed])


def crashed_rows(connection: Connection, run_id: str, batch_id: str) -> list[str]:
    """Show on the rows that a dead worker had in flight that it died; their ids."""
    query = select(attempts.c.row_id.distinct()).where(
        attempts.c.run_id == run_id,
        attempts.c.ended_at.is_(None),
        attempts.c.owner.endswith(f"/{batch_id}", autoescape=True),
    )
    found = list(connection.execute(query).scalars())
    connection.execute(
        rows.update()
        .where(rows.c.run_id == run_id, rows.c.row_id.in_(found), rows.c.status == "open")
        .values(error_type=CRASHED, error_message="a worker died with this row in flight")
    )
    return found


_NOTE_SESSION = (
    attempts.update()
    .where(attempts.c.attempt_id == bindparam("of_attempt"))
    .values(
        session_id=bindparam("known_session"),
        data_dir=func.coalesce(bindparam("known_folder", type_=Text()), attempts.c.data_dir),
    )
)


def note_sessions(connection: Connection, notes: Sequence[tuple[str, str, str | None]]) -> None:
    """Write the sessions of attempts as soon as they are known.

    Of each the attempt's id, the session's, and opencode's data folder where another than was written.
    """
    values = [
        {"of_attempt": one, "known_session": session, "known_folder": folder}
        for one, session, folder in notes
    ]
    connection.execute(_NOTE_SESSION, values)


def end(
    connection: Connection,
    attempt_id: str,
    *,
    record: AttemptRecord,
    error: OpenCodeError | None,
    now: datetime,
) -> RowMapping:
    """Write how an attempt ended and what it bought; the row's lock is held from here on.

    A second record of the same attempt fills in what was unknown and changes nothing that is known.
    Returns the attempt as it was before, joined with its row's ``row_status``.
    """
    found = (
        connection.execute(
            select(
                attempts.c.run_id,
                attempts.c.row_id,
                attempts.c.row_key,
                attempts.c.ended_at,
                rows.c.status.label("row_status"),
            )
            .join(rows, (rows.c.run_id == attempts.c.run_id) & (rows.c.row_id == attempts.c.row_id))
            .where(attempts.c.attempt_id == attempt_id)
            .with_for_update(of=rows)
        )
        .mappings()
        .one_or_none()
    )
    if found is None:
        raise LookupError(f"the ledger has no attempt {attempt_id!r}")
    ending = {
        "session_id": func.coalesce(attempts.c.session_id, record.session_id),
        "usage_known": true() if record.usage_known else attempts.c.usage_known,
    }
    if found["ended_at"] is None:
        ending |= {"ended_at": now, "exit_code": record.exit_code, **_how(error)}
    connection.execute(attempts.update().where(attempts.c.attempt_id == attempt_id).values(**ending))
    origin = {"attempt_id": attempt_id, "run_id": found["run_id"], "row_id": found["row_id"]}
    write_usage(connection, [(record, origin, found["row_key"])])
    budgets.settle(connection, attempt_id)
    return found


def _how(error: OpenCodeError | None) -> dict[str, Any]:
    if error is None:
        return {"status": "completed"}
    return {
        "status": "failed",
        "error_type": error.error_type,
        "error_message": message_of(error),
        "node_id": attempts.c.node_id if error.node_id == "unknown" else error.node_id,
        "reset_time": error.reset_time if isinstance(error, RateLimitError) else None,
        "retry_after_s": error.retry_after,
    }


def message_of(error: OpenCodeError) -> str:
    """The provider's own words, cut where a body is endless."""
    return (error.raw_message or str(error))[:MESSAGE_LIMIT]


def turns_of(messages: Sequence[Mapping[str, Any]]) -> int:
    """The number of assistant messages of a session."""
    infos = (cast("Mapping[str, Any]", message.get("info") or {}) for message in messages)
    return sum(info.get("role") == "assistant" for info in infos)


def write_usage(
    connection: Connection, bought: Sequence[tuple[AttemptRecord, Mapping[str, Any], str]]
) -> None:
    """Write the sessions, steps and inner retries of attempts.

    Of each its record, its origin (``attempt_id``, ``run_id``, ``row_id``) and its row's key.
    """
    _write_sessions(
        connection, [(session, origin) for record, origin, _ in bought for session in record.sessions]
    )
    _write_usage(
        connection,
        [(step, {**origin, "row_key": key}) for record, origin, key in bought for step in record.steps],
    )
    _write_inner_retries(
        connection,
        [(retry, origin["attempt_id"]) for record, origin, _ in bought for retry in record.inner_retries],
    )


def _keep_grown(insert: Any) -> Any:
    return insert.on_conflict_do_update(
        index_elements=["session_id"],
        # A session that goes on in a later attempt belongs to the first and has grown.
        set_={
            "messages": func.coalesce(insert.excluded.messages, sessions.c.messages),
            "turns": func.coalesce(insert.excluded.turns, sessions.c.turns),
        },
    )


_SESSIONS = Upsert(sessions, sessions.c.keys(), _keep_grown)


def _write_sessions(connection: Connection, found: Sequence[tuple[Session, Mapping[str, Any]]]) -> None:
    values = [
        {
            **origin,
            "session_id": session.session_id,
            "parent_id": session.parent_id,
            "messages": packed(session.messages) if session.messages else None,
            "turns": turns_of(session.messages) if session.messages else None,
        }
        for session, origin in found
    ]
    _SESSIONS.execute(connection, values)


def packed(messages: Sequence[Mapping[str, Any]]) -> bytes:
    """Messages as compressed JSON."""
    return zlib.compress(json.dumps(list(messages)).encode())


def unpacked(data: bytes | None) -> list[dict[str, Any]] | None:
    """Messages again, None where they are unknown."""
    return None if data is None else json.loads(zlib.decompress(data))


def _keep_known(insert: Any) -> Any:
    unpriced = usage.c.cost_pico.is_(None) & insert.excluded.cost_pico.is_not(None)
    return insert.on_conflict_do_update(
        index_elements=["session_id", "step_id"],
        set_={
            **{name: func.coalesce(usage.c[name], insert.excluded[name]) for name in (*SUMMED, *PRICED)},
            "cost_source": case((unpriced, insert.excluded.cost_source), else_=usage.c.cost_source),
        },
    )


_USAGE = Upsert(usage, usage.c.keys(), _keep_known)


def _write_usage(connection: Connection, bought: Sequence[tuple[Step, Mapping[str, Any]]]) -> None:
    values = [
        {
            **origin,
            "session_id": step.session_id,
            "step_id": step.step_id,
            "message_id": step.message_id,
            "model_ref": step.model_ref,
            "agent": step.agent,
            **{name: getattr(step.usage, name) for name in SUMMED},
            "cost_source": step.cost_source,
            **{name: getattr(step, name) for name in PRICED},
            "finish_reason": step.finish_reason,
            "ended_at": step.ended_at,
        }
        for step, origin in bought
    ]
    _USAGE.execute(connection, values)


_INNER_RETRIES = Upsert(inner_retries, inner_retries.c.keys(), do_nothing)


def _write_inner_retries(connection: Connection, made: Sequence[tuple[InnerRetry, str]]) -> None:
    values = [
        {
            "session_id": retry.session_id,
            "number": retry.number,
            "attempt_id": attempt,
            "message": retry.message,
            "next_at": retry.next_at,
        }
        for retry, attempt in made
    ]
    _INNER_RETRIES.execute(connection, values)
