"""Series: the runs over one incremental input, each of which sends only the rows without an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, select

from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.operation_groups import Group, read
from opencode_tasks.ledger.runs import newest_of_flow_run
from opencode_tasks.ledger.schema import purged_rows, rows, runs

ROWS_PER_INSERT = 500
PURGED_ID = "purged "
"""The start of the id of a row whose own id was purged; its position follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedRows:
    """The completed rows of a series: their ids, and digests of the ids that were purged."""

    row_ids: frozenset[str] = frozenset()
    digests: frozenset[str] = field(default=frozenset(), repr=False)

    def __contains__(self, row_id: str) -> bool:
        """Whether a row is completed."""
        return row_id in self.row_ids or (bool(self.digests) and _digest(row_id) in self.digests)


def completed_rows(connection: Connection, series: str) -> CompletedRows:
    """The rows that any run of a series completed."""
    query = select(rows.c.row_id).join(runs, runs.c.run_id == rows.c.run_id)
    completed = query.where(runs.c.series == series, rows.c.status == "completed")
    purged = select(purged_rows.c.digest).where(purged_rows.c.series == series)
    return CompletedRows(
        row_ids=frozenset(connection.execute(completed).scalars()),
        digests=frozenset(connection.execute(purged).scalars()),
    )


def row_ids_of_run(connection: Connection, series: str, run_id: str) -> frozenset[str] | None:
    """The ids of a run's rows; None if the run is not in the series."""
    series_of_run = select(runs.c.series).where(runs.c.run_id == run_id)
    if connection.execute(series_of_run).scalar_one_or_none() != series:
        return None
    return frozenset(connection.execute(select(rows.c.row_id).where(rows.c.run_id == run_id)).scalars())


def run_of_flow_run(connection: Connection, series: str, flow_run_id: str) -> str | None:
    """The newest run of a series that a flow run worked on; None without one."""
    return newest_of_flow_run(connection, flow_run_id, runs.c.series == series)


def keep_digests(connection: Connection, run_ids: Collection[str]) -> None:
    """Keep digests of the ids of completed rows before the ids are purged, so that none is sent again."""
    query = (
        select(runs.c.series, rows.c.row_id)
        .join(rows, rows.c.run_id == runs.c.run_id)
        .where(
            runs.c.run_id.in_(run_ids),
            runs.c.series.is_not(None),
            rows.c.status == "completed",
            rows.c.row_id.not_like(f"{PURGED_ID}%"),
        )
    )
    found: Sequence[tuple[str, str]] = [(line.series, line.row_id) for line in connection.execute(query)]
    for start in range(0, len(found), ROWS_PER_INSERT):
        values = [
            {"series": series, "digest": _digest(row_id)}
            for series, row_id in found[start : start + ROWS_PER_INSERT]
        ]
        connection.execute(insert_into(connection, purged_rows).values(values).on_conflict_do_nothing())


def _digest(row_id: str) -> str:
    return hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).hexdigest()


class Series(Group):
    """``ledger.series``: which rows of an incremental input are completed."""

    completed_rows: Final = read(completed_rows)
    row_ids_of_run: Final = read(row_ids_of_run)
    run_of_flow_run: Final = read(run_of_flow_run)
