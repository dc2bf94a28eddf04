"""Reuse of answers: which outcome a row with the same key may copy, and how it is copied.

The answer of a person to a row with the key comes first, the newest review of any run. Else an answer
comes from a completed row of any run that did not itself reuse one; in a run that refreshes, only from a
row that was completed after the run began. A failure is copied within its run only.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    and_,
    bindparam,
    exists,
    func,
    not_,
    null,
    or_,
    select,
    true,
)

from opencode_tasks.domain.columns import STORED
from opencode_tasks.ledger.schema import reviews, rows, runs

REUSED_COLUMNS = tuple(column.ledger_name for column in STORED if column.is_reused)

source: Final = rows.alias("source")
# Answers of models have no time of a review.
_BEST_FIRST = (source.c.reviewed_at.desc().nulls_last(), source.c.completed_at.desc())


def is_reviewed(candidate: FromClause) -> ColumnElement[bool]:
    """Whether the answer of a row is one that a person gave to that row, not a copy of such an answer."""
    return and_(
        candidate.c.answered_by.is_not(None),
        exists().where(
            reviews.c.run_id == candidate.c.run_id,
            reviews.c.row_id == candidate.c.row_id,
            reviews.c.reviewed_at == candidate.c.reviewed_at,
        ),
    )


def reuse_answers(
    connection: Connection, run_id: str, *, now: datetime, only_of_persons: bool = False
) -> int:
    """Copy to each open row of a run the best answer under its key; returns the number of copies.

    That is the newest answer of a person, else, without ``only_of_persons``, the newest one of a model:
    completed, not itself reused, of any run; in a run with ``refresh`` only one completed since the run was
    created.
    """
    wanted = rows.alias("wanted")
    rank = (
        func.row_number()
        .over(
            partition_by=source.c.row_key,
            order_by=(*_BEST_FIRST, source.c.run_id, source.c.row_id),
        )
        .label("rank")
    )
    ranked = (
        select(source.c.row_key, source.c.run_id, source.c.row_id, rank)
        .join(runs, runs.c.run_id == run_id)
        .where(
            source.c.row_key.in_(
                select(wanted.c.row_key).where(wanted.c.run_id == run_id, wanted.c.status == "open")
            ),
            and_(_has_answer(source), is_reviewed(source)) if only_of_persons else _has_answer(source),
        )
        .subquery("ranked")
    )
    return connection.execute(
        rows.update()
        .where(
            rows.c.run_id == run_id,
            rows.c.status == "open",
            ranked.c.rank == 1,
            ranked.c.row_key == rows.c.row_key,
            source.c.run_id == ranked.c.run_id,
            source.c.row_id == ranked.c.row_id,
        )
        .values(_copy(source, now))
    ).rowcount


def _has_answer(candidate: FromClause) -> Any:
    return and_(
        candidate.c.status == "completed",
        # The answer may have been purged.
        candidate.c.response.is_not(None),
        or_(
            is_reviewed(candidate),
            and_(
                not_(candidate.c.reused),
                # The majority of several votes is not one answer of the model.
                candidate.c.votes.is_(None),
                or_(not_(runs.c.refresh), candidate.c.completed_at >= runs.c.created_at),
            ),
        ),
    )


def _copy(candidate: FromClause, now: Any) -> dict[str, Any]:
    return {
        **{name: candidate.c[name] for name in REUSED_COLUMNS},
        "waits_until": null(),
        "reused": true(),
        "source_run_id": candidate.c.run_id,
        "source_row_id": candidate.c.row_id,
        "completed_at": now,
        "duration_s": 0.0,
    }


def _may_copy(wanted: FromClause) -> Any:
    """Whether an open row may copy the outcome of ``source``."""
    return and_(
        source.c.row_key == wanted.c.row_key,
        source.c.status.in_(("completed", "failed")),
        or_(
            _has_answer(source),
            and_(source.c.status == "failed", not_(source.c.reused), source.c.run_id == wanted.c.run_id),
        ),
        or_(source.c.run_id != wanted.c.run_id, source.c.row_id != wanted.c.row_id),
    )


_target = rows.alias("target")
_SOURCES = (
    select(_target.c.row_id, source.c.run_id.label("source_run_id"), source.c.row_id.label("source_row_id"))
    .select_from(_target)
    .join(runs, runs.c.run_id == _target.c.run_id)
    .join(source, _may_copy(_target))
    .where(_target.c.run_id == bindparam("run"), _target.c.row_id.in_(bindparam("ids", expanding=True)))
    # "completed" sorts before "failed".
    .order_by(source.c.status, *_BEST_FIRST)
)


def sources_of(connection: Connection, run_id: str, row_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Run and row whose outcome each of these rows may copy; rows without a source are left out."""
    found: dict[str, tuple[str, str]] = {}
    for row in connection.execute(_SOURCES, {"run": run_id, "ids": list(row_ids)}):
        found.setdefault(row.row_id, (row.source_run_id, row.source_row_id))
    return found


_COPY_OUTCOME = (
    rows.update()
    .where(
        rows.c.run_id == bindparam("of_run"),
        rows.c.row_id == bindparam("of_row"),
        rows.c.status == "open",
        source.c.row_key == rows.c.row_key,
        source.c.run_id == bindparam("of_source_run"),
        source.c.row_id == bindparam("of_source_row"),
    )
    .values(_copy(source, bindparam("now", type_=rows.c.completed_at.type)))
)


def copy_outcomes(
    connection: Connection, run_id: str, sources: Sequence[tuple[str, str, str, datetime]]
) -> None:
    """Copy outcomes to open rows of a run.

    Each source is the id of the open row, the run and the row with the outcome, and the time of the copy.
    """
    names = ("of_row", "of_source_run", "of_source_row", "now")
    if sources:
        connection.execute(
            _COPY_OUTCOME, [{"of_run": run_id, **dict(zip(names, one, strict=True))} for one in sources]
        )


_EQUAL_ROWS = select(rows.c.row_id, rows.c.row_key).where(
    rows.c.run_id == bindparam("of_run"),
    rows.c.row_key.in_(bindparam("keys", expanding=True)),
    rows.c.status == "open",
)


def copy_to_equal_rows(
    connection: Connection, run_id: str, finished: Sequence[tuple[str, str, datetime]]
) -> None:
    """Copy the outcomes of finished rows of a run to its open rows with the same keys.

    Each finished row is its id, its key and the time of its end; the keys are distinct.
    """
    by_key = {row_key: (row_id, now) for row_id, row_key, now in finished}
    if not by_key:
        return
    found = connection.execute(_EQUAL_ROWS, {"of_run": run_id, "keys": list(by_key)})
    equal = [(row.row_id, run_id, *by_key[row.row_key]) for row in found]
    copy_outcomes(connection, run_id, equal)
