"""Queries for cost reports. They only read."""

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
    or_,
    select,
    table,
)
from sqlalchemy.schema import DDL

from opencode_tasks.domain.records import TOKEN_COLUMNS, CostSource
from opencode_tasks.ledger.database import Database
from opencode_tasks.ledger.operation_groups import Group
from opencode_tasks.ledger.progress import ROW_STATUSES
from opencode_tasks.ledger.quality_sums import quality_by_model, quality_of_runs, votes_of_runs
from opencode_tasks.ledger.schema import is_canary, rows, runs
from opencode_tasks.ledger.spend import Grouping, count_rows, failures, items, spent, unreported
from opencode_tasks.ledger.tool_sums import tool_sums

LINES_PER_FETCH = 5000
FROZEN_TABLE = "opencode_tasks_items"


class ReportQueries(Group):
    """``ledger.reports``: spending over all runs. Days are UTC; ``since`` None is from the beginning."""

    def __init__(
        self, database: Database, connection: Connection | None = None, of: FromClause | None = None
    ) -> None:
        super().__init__(database)
        self._connection = connection
        self._of = items().subquery("items") if of is None else of

    @contextmanager
    def frozen(self) -> Generator[ReportQueries]:
        """The same queries over one snapshot of the lines, for a report with many groupings."""
        lines = items()
        columns = (column(one.name, one.type) for one in lines.selected_columns)
        with self.database.engine.connect() as connection:
            sql = str(lines.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
            create = f"CREATE TEMPORARY TABLE {FROZEN_TABLE} AS {sql}".replace("%", "%%")
            connection.execute(DDL(create))
            try:
                yield ReportQueries(self.database, connection, table(FROZEN_TABLE, *columns))
            finally:
                connection.execute(DDL(f"DROP TABLE {FROZEN_TABLE}"))

    def spent(
        self, by: Sequence[Grouping] = (), *, since: date | None = None, before: date | None = None
    ) -> list[dict[str, Any]]:
        """Spending by groups, one dict each with the columns of the views; without groups one of sums.

        ``since`` is the first day, ``before`` the day after the last one.
        """
        return self._dicts(spent(by, of=self._of, since=since, before=before))

    def failures(self, *, since: date | None = None) -> list[dict[str, Any]]:
        """The lines of the view ``failures_by_type``."""
        return self._dicts(_since_day(failures(), since))

    def unreported(self, *, since: date | None = None) -> list[dict[str, Any]]:
        """The lines of the view ``unreported_attempts``."""
        return self._dicts(_since_day(unreported(), since))

    def sources(self, *, since: date | None = None) -> list[dict[str, Any]]:
        """By model: the number of calls by the source of their cost, and both sums of their costs.

        ``both`` counts the calls with a reported and a computed cost; ``cost_reported_pico`` and
        ``cost_computed_pico`` are the sums over these calls.
        """
        of = self._of
        has_both = of.c.cost_reported_pico.is_not(None) & of.c.cost_computed_pico.is_not(None)
        query = (
            select(
                of.c.model,
                *(
                    func.count(case((of.c.cost_source == source, 1))).label(source)
                    for source in get_args(CostSource)
                ),
                func.count(case((has_both, 1))).label("both"),
                *(
                    cast(func.coalesce(func.sum(case((has_both, of.c[name]))), 0), BigInteger).label(name)
                    for name in ("cost_reported_pico", "cost_computed_pico")
                ),
                func.max(of.c.price_source).label("price_source"),
            )
            .where(of.c.step_id.is_not(None))
            .group_by(of.c.model)
            .order_by(of.c.model)
        )
        return self._dicts(query if since is None else query.where(of.c.day >= since))

    def costliest(self, limit: int, *, since: date | None = None) -> list[dict[str, Any]]:
        """The ``limit`` rows with the highest known costs of those that ended since a day.

        The votes on a row count in the row.
        """
        columns = ("row_id", "cost_pico", "prompt", "status", "attempts", "model_ref")
        of_run = func.coalesce(runs.c.parent_run_id, rows.c.run_id)
        is_whole = or_(runs.c.parent_run_id.is_(None), is_canary)
        query = (
            select(of_run.label("run"), *(rows.c[name] for name in columns))
            .join(runs, runs.c.run_id == rows.c.run_id)
            .where(rows.c.cost_pico > 0, rows.c.reused.is_(False), is_whole)
            .order_by(rows.c.cost_pico.desc(), rows.c.run_id, rows.c.row_id)
            .limit(limit)
        )
        if since is None:
            return self._dicts(query)
        return self._dicts(query.where(rows.c.completed_at >= _start_of(since)))

    def quality_by_model(self, *, since: date | None = None) -> list[dict[str, Any]]:
        """The lines of the view ``quality_by_model``, of the runs that began since a day."""
        return self._dicts(quality_by_model(None if since is None else _start_of(since)))

    def quality_by_run(self, *, since: date | None = None) -> list[dict[str, Any]]:
        """The lines of the view ``quality_by_run`` with ``model`` and ``created_at``, newest run first."""
        return self._dicts(_of_runs_since(quality_of_runs(), since))

    def votes_by_run(self, *, since: date | None = None) -> list[dict[str, Any]]:
        """Votes of each run that has some, the newest run first.

        Keys: ``run``, ``model``, ``created_at``, ``votes`` (of a row at most), ``rows`` with votes, their
        mean ``agreement``, and their numbers that have ``needs_review`` and are ``escalated``.
        """
        return self._dicts(_of_runs_since(votes_of_runs(), since))

    def tool_sums(self, *, since: date | None = None) -> list[dict[str, Any]]:
        """The lines of ``tool_sums`` over the rows that ended since a day."""
        return self._dicts(tool_sums(None if since is None else _start_of(since)))

    def rows_by_status(self, *, since: date | None = None) -> Mapping[str, int]:
        """The number of rows by status, and of ``reused`` ones among them."""
        of = self._of
        query = select(
            *(count_rows(of, of.c.row_status == status).label(status) for status in ROW_STATUSES),
            count_rows(of, of.c.reused).label("reused"),
        )
        return self._dicts(query if since is None else query.where(of.c.day >= since))[0]

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
        with self.database.engine.connect() as connection:
            found = connection.execution_options(yield_per=LINES_PER_FETCH).execute(query)
            for line in found.mappings():
                yield dict(line)

    def _dicts(self, query: Select[Any]) -> list[dict[str, Any]]:
        def work(connection: Connection) -> list[dict[str, Any]]:
            return [dict(line) for line in connection.execute(query).mappings()]

        return self.database.read(work) if self._connection is None else work(self._connection)


def _of_runs_since(query: Select[Any], since: date | None) -> Select[Any]:
    if since is None:
        return query
    return query.where(runs.c.created_at >= _start_of(since))


def _start_of(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


def _since_day(query: Select[Any], since: date | None) -> Select[Any]:
    if since is None:
        return query
    of = query.order_by(None).subquery("lines")
    return select(of).where(of.c.day >= since)
