"""Series: runs over one growing input, each of which takes only the rows without an answer yet."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.runs import newest_of
from opencode_tasks.ledger.schema import answered, rows, runs

AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRows:
    """The rows of a series that have an answer; of purged ones a digest of the id is known."""

    row_ids: frozenset[str] = frozenset()
    digests: frozenset[str] = field(default=frozenset(), repr=False)

    def __contains__(self, row_id: str) -> bool:
        """Whether a row has an answer."""
        return row_id in self.row_ids or (bool(self.digests) and _digest(row_id) in self.digests)


def answered_in(connection: Connection, series: str) -> AnsweredRows:
    """The rows that any run of a series completed."""
    of_runs = select(rows.c.row_id).join(runs, runs.c.run_id == rows.c.run_id)
    completed = of_runs.where(runs.c.series == series, rows.c.status == "completed")
    purged = select(answered.c.digest).where(answered.c.series == series)
    return AnsweredRows(
        row_ids=frozenset(connection.execute(completed).scalars()),
        digests=frozenset(connection.execute(purged).scalars()),
    )


def rows_of_run(connection: Connection, series: str, run_id: str) -> frozenset[str] | None:
    """The ids of a run's rows; None where the run is not of the series."""
    of_run = select(runs.c.series).where(runs.c.run_id == run_id)
    if connection.execute(of_run).scalar_one_or_none() != series:
        return None
    return frozenset(connection.execute(select(rows.c.row_id).where(rows.c.run_id == run_id)).scalars())


def run_of_flow_run(connection: Connection, series: str, flow_run_id: str) -> str | None:
    """The newest run of a series that a flow run began or went on with."""
    return newest_of(connection, flow_run_id, runs.c.series == series)


def remember(connection: Connection, run_ids: Collection[str]) -> None:
    """Keep that rows of runs are answered when their ids are forgotten: what is not new is not bought."""
    query = (
        select(runs.c.series, rows.c.row_id)
        .join(rows, rows.c.run_id == runs.c.run_id)
        .where(
            runs.c.run_id.in_(run_ids),
            runs.c.series.is_not(None),
            rows.c.status == "completed",
            rows.c.row_id.not_like("purged %"),
        )
    )
    found: Sequence[tuple[str, str]] = [(line.series, line.row_id) for line in connection.execute(query)]
    for start in range(0, len(found), AT_ONCE):
        values = [
            {"series": series, "digest": _digest(row_id)} for series, row_id in found[start : start + AT_ONCE]
        ]
        connection.execute(insert_into(connection, answered).values(values).on_conflict_do_nothing())


def _digest(row_id: str) -> str:
    return hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).hexdigest()
