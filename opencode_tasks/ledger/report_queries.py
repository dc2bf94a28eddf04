"""``ReportQueries``: what reports read of a ledger. Nothing is written."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from typing import Any, get_args

from sqlalchemy import (
    BigInteger,
    Connection,
    FromClause,
    Select,
    case,
    cast,
    column,
    func,
    select,
    table,
)
from sqlalchemy.schema import DDL

from opencode_tasks.domain.records import TOKEN_COLUMNS, CostSource
from opencode_tasks.ledger.database import Database
from opencode_tasks.ledger.queries import STATUSES
from opencode_tasks.ledger.schema import rows
from opencode_tasks.ledger.spend import Grouping, distinct_rows, failures, items, spent, unreported

LINES_AT_ONCE = 5000
FROZEN = "opencode_tasks_items"


class ReportQueries:
    """The spending in a ledger, by queries. Days are UTC; ``since`` None is from the beginning."""

    def __init__(
        self, database: Database, connection: Connection | None = None, of: FromClause | None = None
    ) -> None:
        self._database = database
        self._connection = connection
        self._of = items().subquery("items") if of is None else of

    @contextmanager
    def frozen(self) -> Generator[ReportQueries]:
        """The same as of one moment, its lines made once: for a report that asks for many groupings."""
        lines = items()
        columns = (column(one.name, one.type) for one in lines.selected_columns)
        with self._database.engine.connect() as connection:
            made = lines.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
            connection.execute(DDL(f"CREATE TEMPORARY TABLE {FROZEN} AS {made}".replace("%", "%%")))
            try:
                yield ReportQueries(self._database, connection, table(FROZEN, *columns))
            finally:
                connection.execute(DDL(f"DROP TABLE {FROZEN}"))

    def spent(
        self, by: Sequence[Grouping] = (), *, since: date | None = None, before: date | None = None
    ) -> list[dict[str, Any]]:
        """A dict for each group, with the columns of the views; without groups one of sums alone."""
        return self._all(spent(by, of=self._of, since=since, before=before))

    def failures(self, *, since: date | None = None) -> list[dict[str, Any]]:
        """The lines of ``failures_by_type``."""
        return self._all(_from(failures(), since))

    def failure_messages(self, run_id: str, *, limit: int) -> list[dict[str, Any]]:
        """``error_type`` and ``error_message`` of a run's failed rows with the count ``failed_rows``.

        The ``limit`` most frequent ones, the most frequent one first.
        """
        failed_rows = func.count().label("failed_rows")
        query = (
            select(rows.c.error_type, rows.c.error_message, failed_rows)
            .where(rows.c.run_id == run_id, rows.c.status == "failed")
            .group_by(rows.c.error_type, rows.c.error_message)
            .order_by(failed_rows.desc(), rows.c.error_type, rows.c.error_message)
            .limit(limit)
        )
        return self._all(query)

    def unreported(self, *, since: date | None = None) -> list[dict[str, Any]]:
        """The lines of ``unreported_attempts``."""
        return self._all(_from(unreported(), since))

    def sources(self, *, since: date | None = None) -> list[dict[str, Any]]:
        """By model: calls by the source of their cost, and the two accounts of those that have both.

        ``both`` counts the latter; their sums are ``cost_reported_pico`` and ``cost_computed_pico``.
        """
        of = self._of
        both = of.c.cost_reported_pico.is_not(None) & of.c.cost_computed_pico.is_not(None)
        report_queries = ("cost_reported_pico", "cost_computed_pico")
        query = (
            select(
                of.c.model,
                *(
                    func.count(case((of.c.cost_source == source, 1))).label(source)
                    for source in get_args(CostSource)
                ),
                func.count(case((both, 1))).label("both"),
                *(
                    cast(func.coalesce(func.sum(case((both, of.c[name]))), 0), BigInteger).label(name)
                    for name in report_queries
                ),
                func.max(of.c.price_source).label("price_source"),
            )
            .where(of.c.step_id.is_not(None))
            .group_by(of.c.model)
            .order_by(of.c.model)
        )
        return self._all(query if since is None else query.where(of.c.day >= since))

    def costliest(self, limit: int, *, since: date | None = None) -> list[dict[str, Any]]:
        """The rows that cost most of those that ended since, dearest first; unknown costs have no rank."""
        told = (
            rows.c.row_id,
            rows.c.cost_pico,
            rows.c.prompt,
            rows.c.status,
            rows.c.attempts,
            rows.c.model_ref,
        )
        query = (
            select(rows.c.run_id.label("run"), *told)
            .where(rows.c.cost_pico > 0, rows.c.reused.is_(False))
            .order_by(rows.c.cost_pico.desc(), rows.c.run_id, rows.c.row_id)
            .limit(limit)
        )
        if since is None:
            return self._all(query)
        return self._all(query.where(rows.c.completed_at >= datetime.combine(since, time.min, UTC)))

    def rows_by_status(self, *, since: date | None = None) -> Mapping[str, int]:
        """Rows that were asked or taken over, by status, and ``reused`` among them."""
        of = self._of
        query = select(
            *(distinct_rows(of, of.c.row_status == status).label(status) for status in STATUSES),
            distinct_rows(of, of.c.reused).label("reused"),
        )
        return self._all(query if since is None else query.where(of.c.day >= since))[0]

    def charges(self, *, since: date | None = None) -> Iterator[dict[str, Any]]:
        """Every model call, oldest first."""
        of = self._of
        names = ("ended_at", "run", "row_id", "deployment", "model", "agent", "session_id", "step_id")
        costs = ("cost_pico", "cost_source", "cost_computed_pico", "price_source")
        query = (
            select(*(of.c[name] for name in (*names, *TOKEN_COLUMNS, *costs, "day", "labels", "origin")))
            .where(of.c.step_id.is_not(None))
            .order_by(of.c.ended_at, of.c.session_id, of.c.step_id)
        )
        if since is not None:
            query = query.where(of.c.day >= since)
        with self._database.engine.connect() as connection:
            found = connection.execution_options(yield_per=LINES_AT_ONCE).execute(query)
            for line in found.mappings():
                yield dict(line)

    def _all(self, query: Select[Any]) -> list[dict[str, Any]]:
        def work(connection: Connection) -> list[dict[str, Any]]:
            return [dict(line) for line in connection.execute(query).mappings()]

        return self._database.read(work) if self._connection is None else work(self._connection)


def _from(query: Select[Any], since: date | None) -> Select[Any]:
    if since is None:
        return query
    of = query.order_by(None).subquery("lines")
    return select(of).where(of.c.day >= since)
