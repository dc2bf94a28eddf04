"""Attempts: written before a row is sent; ``ledger/finish.py`` writes their end."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Text, bindparam, case, exists, func, select

from opencode_tasks.errors import error_types
from opencode_tasks.ledger.leases import Lease
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.schema import attempts, rows
from opencode_tasks.ledger.upsert import Upsert, do_nothing
from opencode_tasks.ledger.usage_sums import count_if

# ``error_type`` of an attempt whose process died, and of a row whose worker died.
CRASHED = "crashed"
# ``error_type`` of an attempt that was stopped together with its run.
INTERRUPTED = "interrupted"
# These errors are not the row's fault: they do not count against ``max_attempts``.
UNCOUNTED_ERRORS = (*error_types(lambda reaction: not reaction.uses_attempt), INTERRUPTED)
CUT_OFF = error_types(lambda reaction: reaction.counter == "cut_off_answers")
LIMITED = error_types(lambda reaction: reaction.counter == "rate_limits")
COUNTS = ("used", "cut_off", "limited", "outages", "failed_since")


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanedAttempt:
    """An attempt without an end: it is running, or its process died."""

    attempt_id: str
    run_id: str
    row_id: str
    row_key: str
    owner: str
    session_id: str | None
    data_dir: str | None


def attempt_id_of(run_id: str, row_id: str, lease: Lease, attempt: int) -> str:
    """The id of an attempt. The same attempt always has the same id."""
    name = "\0".join((run_id, row_id, lease.row_key, str(lease.fence), str(attempt)))
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name.encode("utf-8", "replace").decode()))


_NEW_ATTEMPTS = Upsert(
    attempts,
    (
        *("attempt_id", "run_id", "row_id", "row_key", "attempt", "fence", "owner", "started_at", "status"),
        *("node_id", "host", "backend", "data_dir", "usage_known", "gate_id", "reserved_pico"),
        "max_call_pico",
    ),
    do_nothing,
)


def write_attempts(connection: Connection, values: Sequence[Mapping[str, Any]]) -> None:
    """Write attempts that are about to start, under leases acquired in this transaction."""
    _NEW_ATTEMPTS.execute(connection, [{**one, "status": "open", "usage_known": False} for one in values])


_SET_SESSION = (
    attempts.update()
    .where(attempts.c.attempt_id == bindparam("of_attempt"))
    .values(
        session_id=bindparam("new_session"),
        data_dir=func.coalesce(bindparam("new_data_dir", type_=Text()), attempts.c.data_dir),
    )
)


def record_sessions(connection: Connection, sessions: Sequence[tuple[str, str, str | None]]) -> None:
    """Write the sessions of attempts as soon as they are known.

    Each is an attempt id, a session id and opencode's data folder; None keeps the folder that was
    written when the attempt started.
    """
    values = [
        {"of_attempt": attempt_id, "new_session": session_id, "new_data_dir": data_dir}
        for attempt_id, session_id, data_dir in sessions
    ]
    connection.execute(_SET_SESSION, values)


def attempt_counts(connection: Connection, run_id: str, row_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The ``COUNTS`` of an ``OpenRow`` for each of these rows that has attempts."""
    if not row_ids:
        return {}
    error_type = attempts.c.error_type
    is_outage = attempts.c.is_outage.is_(True)
    is_used = error_type.not_in(UNCOUNTED_ERRORS) | error_type.is_(None)
    query = (
        select(
            attempts.c.row_id,
            count_if(is_used & ~is_outage).label("used"),
            count_if(error_type.in_(CUT_OFF)).label("cut_off"),
            count_if(error_type.in_(LIMITED)).label("limited"),
            count_if(is_outage).label("outages"),
            func.min(case((is_used, attempts.c.ended_at))).label("failed_since"),
        )
        .where(attempts.c.run_id == run_id, attempts.c.row_id.in_(row_ids))
        .group_by(attempts.c.row_id)
    )
    return {
        row["row_id"]: {name: row[name] for name in COUNTS} for row in connection.execute(query).mappings()
    }


def orphaned_attempts(connection: Connection, run_id: str, host: str) -> list[OrphanedAttempt]:
    """The attempts of any run without an end on a host, at keys of open rows of a run; oldest first."""
    names = ("attempt_id", "run_id", "row_id", "row_key", "owner", "session_id", "data_dir")
    query = (
        select(*(attempts.c[name] for name in names))
        .where(
            attempts.c.ended_at.is_(None),
            attempts.c.host == host,
            exists().where(
                rows.c.row_key == attempts.c.row_key, rows.c.run_id == run_id, rows.c.status == "open"
            ),
        )
        .order_by(attempts.c.started_at)
    )
    return [
        OrphanedAttempt(**{name: row[name] for name in names}) for row in connection.execute(query).mappings()
    ]


def ended_attempts(connection: Connection, attempt_ids: Collection[str]) -> list[str]:
    """Those of these attempts that have an end; an unknown id has none."""
    query = select(attempts.c.attempt_id).where(
        attempts.c.attempt_id.in_(list(attempt_ids)), attempts.c.ended_at.is_not(None)
    )
    return list(connection.execute(query).scalars())


def mark_crashed(connection: Connection, run_id: str, batch_id: str) -> list[str]:
    """Set the error ``crashed`` on the rows that a dead worker had in flight; returns their ids."""
    query = (
        select(attempts.c.row_id)
        .distinct()
        .where(
            attempts.c.run_id == run_id,
            attempts.c.ended_at.is_(None),
            attempts.c.owner.endswith(f"/{batch_id}", autoescape=True),
        )
    )
    found = list(connection.execute(query).scalars())
    connection.execute(
        rows.update()
        .where(rows.c.run_id == run_id, rows.c.row_id.in_(found), rows.c.status == "open")
        .values(error_type=CRASHED, error_message="a worker died with this row in flight")
    )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRows:
    """Rows that a batch has sent: their number, and the ids of the first and last one in input order."""

    count: int
    first_id: str
    last_id: str


def batch_rows(connection: Connection, run_id: str, batch_id: str) -> BatchRows | None:
    """The rows that a batch has sent so far; None without any."""
    is_of_batch = (attempts.c.run_id == run_id) & attempts.c.owner.endswith(f"/{batch_id}", autoescape=True)
    found = (
        select(rows.c.position, rows.c.row_id)
        .join(attempts, (attempts.c.run_id == rows.c.run_id) & (attempts.c.row_id == rows.c.row_id))
        .where(is_of_batch)
        .distinct()
        .subquery()
    )
    count, first, last = connection.execute(
        select(func.count(), func.min(found.c.position), func.max(found.c.position))
    ).one()
    if not count:
        return None
    query = select(found.c.position, found.c.row_id).where(found.c.position.in_((first, last)))
    ids = {line.position: line.row_id for line in connection.execute(query)}
    return BatchRows(count=count, first_id=ids[first], last_id=ids[last])


def first_ended(connection: Connection, run_id: str, *, since: datetime) -> tuple[datetime, datetime] | None:
    """Start and end of the first attempt to end of those that started since a time; None without one."""
    query = (
        select(attempts.c.started_at, attempts.c.ended_at)
        .where(attempts.c.run_id == run_id, attempts.c.started_at >= since, attempts.c.ended_at.is_not(None))
        .order_by(attempts.c.ended_at)
        .limit(1)
    )
    found = connection.execute(query).one_or_none()
    return None if found is None else (found.started_at, found.ended_at)


class Attempts(Group):
    """``ledger.attempts``: executions of rows. ``ledger.queue.claim`` starts them."""

    record_sessions: Final = write(record_sessions)
    orphaned: Final = read(orphaned_attempts)
    ended: Final = read(ended_attempts)
    mark_crashed: Final = write(mark_crashed)
    batch_rows: Final = read(batch_rows)
    first_ended: Final = read(first_ended)
