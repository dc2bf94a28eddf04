"""Forgetting what was said, keeping what it cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, cast, func, literal, null, select, update
from sqlalchemy.types import Text

from opencode_tasks.ledger.incremental import remember
from opencode_tasks.ledger.runs import UNFINISHED
from opencode_tasks.ledger.schema import attempts, inner_retries, rows, runs, sessions, usage

ALL_TEXTS = frozenset(("prompts", "answers", "traces"))
RUNS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """How much was purged: runs, and rows in them."""

    runs: int
    rows: int


def purge(connection: Connection, before: datetime, *, texts_only: bool, now: datetime) -> Purged:
    """Remove the texts of runs that ended before a moment; runs that can go on are left alone.

    Texts are prompts, answers, traces, the providers' messages and the options of the run. Without
    ``texts_only`` rows are known by their number alone from then on: their ids may name somebody.
    Tokens, costs, models, labels, deployments and kinds of errors stay, and of rows of a series a
    digest of the id, so that they are not taken for new ones.
    """
    query = select(runs.c.run_id).where(
        runs.c.status.not_in(UNFINISHED), func.coalesce(runs.c.ended_at, runs.c.created_at) < before
    )
    found = list(connection.execute(query.order_by(runs.c.run_id)).scalars())
    count = 0
    for start in range(0, len(found), RUNS_AT_ONCE):
        chunk = found[start : start + RUNS_AT_ONCE]
        counted = select(func.count()).select_from(rows).where(rows.c.run_id.in_(chunk))
        count += connection.execute(counted).scalar_one()
        forget_texts(connection, chunk, ALL_TEXTS, now)
        connection.execute(_of(rows, chunk).values(error_message=null()))
        connection.execute(_of(attempts, chunk).values(error_message=null(), data_dir=null()))
        connection.execute(_of(runs, chunk).values(parameters={}, pause_reason=null()))
        if not texts_only:
            remember(connection, chunk)
            _forget_ids(connection, chunk)
    return Purged(runs=len(found), rows=count)


def forget_texts(
    connection: Connection, run_ids: Sequence[str], kinds: Collection[str], now: datetime
) -> None:
    """Remove texts of runs. A row without its answer is not taken over by later runs."""
    if "prompts" in kinds:
        connection.execute(_of(rows, run_ids).values(prompt=null()))
    if "answers" in kinds:
        connection.execute(_of(rows, run_ids).values(response=null(), structured=null()))
    if "traces" in kinds:
        connection.execute(_of(sessions, run_ids).values(messages=null()))
        mine = select(attempts.c.attempt_id).where(attempts.c.run_id.in_(run_ids))
        told = update(inner_retries).where(inner_retries.c.attempt_id.in_(mine))
        connection.execute(told.values(message=null()))
    connection.execute(_of(runs, run_ids).values(purged_at=now))


def _of(table: Table, run_ids: Sequence[str]) -> Any:
    return update(table).where(table.c.run_id.in_(run_ids))


def _forget_ids(connection: Connection, run_ids: Sequence[str]) -> None:
    for table in (usage, sessions, attempts, rows):
        number = (
            select(rows.c.position)
            .where(rows.c.run_id == table.c.run_id, rows.c.row_id == table.c.row_id)
            .scalar_subquery()
            if table is not rows
            else rows.c.position
        )
        named = literal("purged ").concat(cast(number, Text))
        not_yet = table.c.row_id.not_like("purged %")
        connection.execute(_of(table, run_ids).where(not_yet).values(row_id=named))
