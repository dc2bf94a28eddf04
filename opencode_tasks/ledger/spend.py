"""Spending by group: the queries behind the views and the reports.

All queries add up the same lines, those of ``items``: one for each model call, and one without a
call for each attempt without usage and each row without an attempt (reused, skipped). The lines of votes
belong to the run whose rows they are about, with the status of these rows. Days are UTC.
A sum is NULL if a part of it is unknown; ``known_cost_pico`` is the sum of the known parts. A change
of a query that a view uses needs a new ``migrate.VIEWS_VERSION``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Select,
    Text,
    and_,
    case,
    cast,
    func,
    not_,
    select,
)

from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.ledger.schema import HELD, attempts, is_canary, rows, runs, sessions, shown_status, usage
from opencode_tasks.ledger.sql_functions import Dollars, RowName, UtcDay, label_pairs
from opencode_tasks.ledger.usage_sums import SUM_COLUMNS

Grouping = Literal["day", "model", "deployment", "run", "label"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)


def items() -> Select[Any]:
    """The lines that every report adds up."""
    is_of_row = and_(attempts.c.run_id == rows.c.run_id, attempts.c.row_id == rows.c.row_id)
    is_of_attempt = and_(
        usage.c.run_id == attempts.c.run_id,
        usage.c.row_id == attempts.c.row_id,
        usage.c.attempt_id == attempts.c.attempt_id,
    )
    whole = rows.alias("whole")
    is_of_whole = and_(whole.c.run_id == runs.c.parent_run_id, whole.c.row_id == rows.c.row_id)
    of_whole = case((whole.c.status == HELD, "open"), else_=whole.c.status)
    time = func.coalesce(usage.c.ended_at, attempts.c.started_at, rows.c.completed_at, runs.c.created_at)
    return (
        select(
            UtcDay(time).label("day"),
            func.coalesce(usage.c.model_ref, rows.c.model_ref, runs.c.model_ref).label("model"),
            runs.c.deployment,
            func.coalesce(runs.c.parent_run_id, runs.c.run_id).label("run"),
            runs.c.origin,
            is_canary.label("canary"),
            rows.c.row_id,
            func.coalesce(of_whole, shown_status).label("row_status"),
            func.coalesce(whole.c.reused, rows.c.reused).label("reused"),
            attempts.c.attempt_id,
            attempts.c.status.label("attempt_status"),
            attempts.c.error_type,
            *(usage.c[name] for name in ("session_id", "step_id", "agent", *TOKEN_COLUMNS, "cost_pico")),
            *(usage.c[name] for name in ("cost_source", "cost_reported_pico", "cost_computed_pico")),
            usage.c.price_source,
            usage.c.ended_at,
            rows.c.labels,
        )
        .select_from(rows)
        .join(runs, runs.c.run_id == rows.c.run_id)
        .outerjoin(whole, is_of_whole)
        .outerjoin(attempts, is_of_row)
        .outerjoin(usage, is_of_attempt)
        # What the rows of a run with votes cost is in its parts.
        .where(runs.c.votes.is_(None))
    )


def spent(
    by: Sequence[Grouping], *, of: FromClause | None = None, since: Any = None, before: Any = None
) -> Select[Any]:
    """The lines added up by groupings, in their order; without groupings one line for all.

    ``of`` are the lines (None: those of ``items``). ``since`` is the first day and ``before`` the day
    after the last one; None for no bound. With ``label`` a row counts under each of its labels, and
    rows without labels do not count.
    """
    of = items().subquery("items") if of is None else of
    groups = [cast(of.c.labels, Text).label("label") if name == "label" else of.c[name] for name in by]
    query = select(*groups, *_sums(of))
    if since is not None:
        query = query.where(of.c.day >= since)
    if before is not None:
        query = query.where(of.c.day < before)
    summed = query.group_by(*groups).subquery("summed")
    return _group_columns(_by_label(by, summed) if "label" in by else summed, by)


def _by_label(by: Sequence[Grouping], summed: FromClause) -> FromClause:
    """Sums by whole sets of labels, added up by label: a row has one set, and there are few sets."""
    pairs = label_pairs(summed.c.label)
    groups: list[ColumnElement[Any]] = [pairs.c.key.label("label"), pairs.c.value.label("label_value")]
    groups += [summed.c[name] for name in by if name != "label"]
    added = [_sum(column).label(column.name) for column in summed.c if column.name not in by]
    return select(*groups, *added).select_from(summed, pairs).group_by(*groups).subquery("added")


def _sums(of: FromClause) -> list[ColumnElement[Any]]:
    """Counts and sums that can be added up again. ``unknown_…`` counts the calls with an unknown value."""
    is_failed = of.c.attempt_status != "completed"
    failed_cost = case((is_failed, of.c.cost_pico))
    failed_calls = func.count(case((is_failed, of.c.step_id)))
    steps = func.count(of.c.step_id)
    return [
        count_rows(of).label("rows"),
        steps.label("steps"),
        *(_sum(of.c[name]).label(name) for name in SUM_COLUMNS),
        *((steps - func.count(of.c[name])).label(f"unknown_{name}") for name in SUM_COLUMNS),
        _sum(failed_cost).label("failed_cost_pico"),
        (failed_calls - func.count(failed_cost)).label("unknown_failed_cost_pico"),
    ]


def _group_columns(of: FromClause, by: Sequence[Grouping]) -> Select[Any]:
    """The columns of a grouping, as ``views.MEANINGS`` explains them."""
    groups: list[ColumnElement[Any]] = []
    for name in by:
        groups += [of.c.label, of.c.label_value] if name == "label" else [of.c[name]]
    known = {
        name: case((of.c[f"unknown_{name}"] == 0, of.c[name]), else_=None)
        for name in (*SUM_COLUMNS, "failed_cost_pico")
    }
    cost, failed = known["cost_pico"], known["failed_cost_pico"]
    return select(
        *groups,
        of.c.rows,
        of.c.steps,
        *(known[name].label(name) for name in TOKEN_COLUMNS),
        cost.label("cost_pico"),
        of.c.cost_pico.label("known_cost_pico"),
        failed.label("failed_cost_pico"),
        of.c.failed_cost_pico.label("known_failed_cost_pico"),
        Dollars(cost).label("cost_usd"),
        Dollars(of.c.cost_pico).label("known_cost_usd"),
        Dollars(failed).label("failed_cost_usd"),
    ).order_by(*groups)


def count_rows(of: FromClause, condition: Any = None) -> ColumnElement[int]:
    """The number of distinct rows among lines (that meet a condition), canaries aside."""
    is_row = not_(of.c.canary) if condition is None else and_(not_(of.c.canary), condition)
    return func.count(case((is_row, RowName(of.c.run, of.c.row_id))).distinct())


def _sum(column: ColumnElement[Any]) -> ColumnElement[int]:
    # PostgreSQL sums bigints to a numeric.
    return cast(func.coalesce(func.sum(column), 0), BigInteger)


def _known_sum(of: FromClause, column: ColumnElement[Any]) -> ColumnElement[int | None]:
    """The sum; NULL if a call has no known value."""
    return case((func.count(column) == func.count(of.c.step_id), _sum(column)), else_=None)


def failures() -> Select[Any]:
    """Attempts that ended with an error, by day, model and error type."""
    of = items().where(attempts.c.error_type.is_not(None)).subquery("items")
    groups = (of.c.day, of.c.model, of.c.error_type)
    cost, known = _known_sum(of, of.c.cost_pico), _sum(of.c.cost_pico)
    return (
        select(
            *groups,
            func.count(of.c.attempt_id.distinct()).label("attempts"),
            count_rows(of).label("rows"),
            count_rows(of, of.c.row_status == "failed").label("failed_rows"),
            cost.label("cost_pico"),
            known.label("known_cost_pico"),
            Dollars(cost).label("cost_usd"),
            Dollars(known).label("known_cost_usd"),
        )
        .group_by(*groups)
        .order_by(*groups)
    )


def unreported() -> Select[Any]:
    """Attempts that may have more usage than their steps: running, killed, aborted, timed out.

    The upper bound is what is still reserved for the attempt; for an agent with tools also one more
    call in each of its sessions, whatever the size of their contexts.
    """
    session_count = (
        select(func.count())
        .select_from(sessions)
        .where(sessions.c.attempt_id == attempts.c.attempt_id)
        .scalar_subquery()
    )
    calls = attempts.c.max_call_pico * case((session_count > 1, session_count), else_=1)
    bound = case((calls > attempts.c.reserved_pico, calls), else_=attempts.c.reserved_pico)
    return (
        select(
            UtcDay(attempts.c.started_at).label("day"),
            func.coalesce(runs.c.parent_run_id, attempts.c.run_id).label("run"),
            attempts.c.row_id,
            attempts.c.attempt_id,
            attempts.c.attempt,
            attempts.c.started_at,
            attempts.c.status,
            attempts.c.error_type,
            cast(bound, BigInteger).label("at_most_pico"),
            Dollars(cast(bound, BigInteger)).label("at_most_usd"),
        )
        .join(runs, runs.c.run_id == attempts.c.run_id)
        .where(attempts.c.usage_known.is_(False))
        .order_by(attempts.c.started_at, attempts.c.attempt_id)
    )


def by_run() -> Select[Any]:
    """Spending by run, with the columns of the run."""
    sums = spent(("run",)).order_by(None).subquery("sums")
    columns = (runs.c.created_at, runs.c.ended_at, runs.c.status, runs.c.origin, runs.c.deployment)
    return (
        select(*columns, runs.c.model_ref.label("model"), *sums.c)
        .select_from(runs.join(sums, sums.c.run == runs.c.run_id))
        .order_by(runs.c.created_at, runs.c.run_id)
    )
