"""One answer for all rows with the same key: which may be taken over, and how it is copied.

A completed row that was not itself reused is the source, of any run; in a run that refreshes, only
one that was completed since that run began. A failure is shared within its run.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    FromClause,
    RowMapping,
    and_,
    bindparam,
    func,
    not_,
    null,
    or_,
    select,
    true,
)

from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.ledger.schema import rows, runs

COPIED = (
    *("status", "response", "structured", "error_type", "error_message", "finish_reason", "session_id"),
    *("turns", "model_ref", *TOKEN_COLUMNS, "cost_pico", "cost_source"),
)

source = rows.alias("source")


def reuse(connection: Connection, run_id: str, now: datetime) -> int:
    """Give every open row of the run the newest finished answer under its key; how many got one."""
    wanted = rows.alias("wanted")
    newest = (
        func.row_number()
        .over(
            partition_by=source.c.row_key,
            order_by=(source.c.completed_at.desc(), source.c.run_id, source.c.row_id),
        )
        .label("place")
    )
    ranked = (
        select(source.c.row_key, source.c.run_id, source.c.row_id, newest)
        .join(runs, runs.c.run_id == run_id)
        .where(
            source.c.row_key.in_(
                select(wanted.c.row_key).where(wanted.c.run_id == run_id, wanted.c.status == "open")
            ),
            _answered(source),
        )
        .subquery("ranked")
    )
    return connection.execute(
        rows.update()
        .where(
            rows.c.run_id == run_id,
            rows.c.status == "open",
            ranked.c.place == 1,
            ranked.c.row_key == rows.c.row_key,
            source.c.run_id == ranked.c.run_id,
            source.c.row_id == ranked.c.row_id,
        )
        .values(_copy(source, now))
    ).rowcount


def _answered(candidate: FromClause) -> Any:
    return and_(
        candidate.c.status == "completed",
        # An answer that was purged is no answer any more.
        candidate.c.response.is_not(None),
        not_(candidate.c.reused),
        or_(not_(runs.c.refresh), candidate.c.completed_at >= runs.c.created_at),
    )


def _copy(candidate: FromClause, now: datetime) -> dict[str, Any]:
    return {
        **{name: candidate.c[name] for name in COPIED},
        "waits_until": null(),
        "reused": true(),
        "source_run_id": candidate.c.run_id,
        "source_row_id": candidate.c.row_id,
        "completed_at": now,
        "duration_s": 0.0,
    }


def _may_stand_for(wanted: FromClause) -> Any:
    """Whether ``source`` has the outcome that an open row could copy."""
    return and_(
        source.c.row_key == wanted.c.row_key,
        source.c.status.in_(("completed", "failed")),
        or_(
            _answered(source),
            and_(source.c.status == "failed", not_(source.c.reused), source.c.run_id == wanted.c.run_id),
        ),
        or_(source.c.run_id != wanted.c.run_id, source.c.row_id != wanted.c.row_id),
    )


_mine = rows.alias("mine")
_looked_up = (
    select(
        _mine.c.status,
        _mine.c.reused,
        source.c.run_id.label("source_run_id"),
        source.c.row_id.label("source_row_id"),
        source.c.status.label("source_status"),
    )
    .select_from(_mine)
    .join(runs, runs.c.run_id == _mine.c.run_id)
    .outerjoin(source, _may_stand_for(_mine))
    .where(_mine.c.run_id == bindparam("run"), _mine.c.row_id == bindparam("row"))
    # "completed" sorts before "failed".
    .order_by(source.c.status, source.c.completed_at.desc())
    .limit(1)
)


def look_up(connection: Connection, run_id: str, row_id: str) -> RowMapping:
    """A row's ``status`` and ``reused``, and the source that it may copy (``source_…``, None without one).

    Raises LookupError where there is no such row.
    """
    found = connection.execute(_looked_up, {"run": run_id, "row": row_id}).mappings().one_or_none()
    if found is None:
        raise LookupError(f"the ledger has no row {row_id!r} in run {run_id!r}")
    return found


_source_of = (
    select(_mine.c.row_id, source.c.run_id.label("source_run_id"), source.c.row_id.label("source_row_id"))
    .select_from(_mine)
    .join(runs, runs.c.run_id == _mine.c.run_id)
    .join(source, _may_stand_for(_mine))
    .where(_mine.c.run_id == bindparam("run"), _mine.c.row_id.in_(bindparam("ids", expanding=True)))
    .order_by(source.c.status, source.c.completed_at.desc())
)


def sources_of(connection: Connection, run_id: str, row_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """By row the run and row whose outcome it may copy, of those rows that have such a source."""
    found: dict[str, tuple[str, str]] = {}
    for row in connection.execute(_source_of, {"run": run_id, "ids": list(row_ids)}):
        found.setdefault(row.row_id, (row.source_run_id, row.source_row_id))
    return found


def copy_from(
    connection: Connection, run_id: str, row_id: str, *, source_run_id: str, source_row_id: str, now: datetime
) -> None:
    """Copy one source into one row that is open."""
    connection.execute(
        rows.update()
        .where(
            rows.c.run_id == run_id,
            rows.c.row_id == row_id,
            rows.c.status == "open",
            source.c.row_key == rows.c.row_key,
            source.c.run_id == source_run_id,
            source.c.row_id == source_row_id,
        )
        .values(_copy(source, now))
    )


def share(connection: Connection, run_id: str, row_id: str, row_key: str, now: datetime) -> None:
    """Copy a row's outcome to the open rows of its run that have the same key."""
    connection.execute(
        rows.update()
        .where(
            rows.c.run_id == run_id,
            rows.c.row_key == row_key,
            rows.c.status == "open",
            rows.c.row_id != row_id,
            source.c.row_key == rows.c.row_key,
            source.c.run_id == run_id,
            source.c.row_id == row_id,
        )
        .values(_copy(source, now))
    )
