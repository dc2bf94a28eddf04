"""What was spent, grouped: the one place that says how, for the views and for reports.

All add up the same lines, those of ``items``: one for each model call, and one without a call for
each attempt that bought nothing and each row that was not asked (taken over, skipped). Days are UTC.
A sum is NULL where a part of it is unknown; ``known_cost_pico`` is the sum of the known parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import BigInteger, ColumnElement, FromClause, Select, Text, and_, case, cast, func, select

from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.ledger.dialects import Dollars, RowName, UtcDay, label_pairs
from opencode_tasks.ledger.schema import attempts, rows, runs, sessions, usage
from opencode_tasks.ledger.totals import SUMMED

Grouping = Literal["day", "model", "deployment", "run", "label"]
GROUPINGS: tuple[Grouping, ...] = ("day", "model", "deployment", "run", "label")


def items() -> Select[Any]:
    """The lines that every report adds up."""
    asked = and_(attempts.c.run_id == rows.c.run_id, attempts.c.row_id == rows.c.row_id)
    bought = and_(
        usage.c.run_id == attempts.c.run_id,
        usage.c.row_id == attempts.c.row_id,
        usage.c.attempt_id == attempts.c.attempt_id,
    )
    moment = func.coalesce(usage.c.ended_at, attempts.c.started_at, rows.c.completed_at, runs.c.created_at)
    return (
        select(
            UtcDay(moment).label("day"),
            func.coalesce(usage.c.model_ref, rows.c.model_ref, runs.c.model_ref).label("model"),
            runs.c.deployment,
            runs.c.run_id.label("run"),
            runs.c.origin,
            rows.c.row_id,
            rows.c.status.label("row_status"),
            rows.c.reused,
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
        .outerjoin(attempts, asked)
        .outerjoin(usage, bought)
    )


def spent(
    by: Sequence[Grouping], *, of: FromClause | None = None, since: Any = None, before: Any = None
) -> Select[Any]:
    """The lines added up by groupings, in their order; one line for all without any.

    ``of`` are the lines, if not those of ``items``. ``since`` and ``before`` are days, the latter not
    counted itself. With ``label`` a row counts under each of its labels, and rows without labels are
    left out.
    """
    of = items().subquery("items") if of is None else of
    groups = [cast(of.c.labels, Text).label("label") if name == "label" else of.c[name] for name in by]
    query = select(*groups, *_counted(of))
    if since is not None:
        query = query.where(of.c.day >= since)
    if before is not None:
        query = query.where(of.c.day < before)
    counted = query.group_by(*groups).subquery("counted")
    return _told(_by_label(by, counted) if "label" in by else counted, by)


def _by_label(by: Sequence[Grouping], counted: FromClause) -> FromClause:
    """What was counted by whole sets of labels, by label: a row has one set, and sets are few."""
    pairs = label_pairs(counted.c.label)
    groups: list[ColumnElement[Any]] = [pairs.c.key.label("label"), pairs.c.value.label("label_value")]
    groups += [counted.c[name] for name in by if name != "label"]
    added = [_sum(column).label(column.name) for column in counted.c if column.name not in by]
    return select(*groups, *added).select_from(counted, pairs).group_by(*groups).subquery("added")


def _counted(of: FromClause) -> list[ColumnElement[Any]]:
    """Counts and sums that can be added up further; ``unknown_…``: calls whose part of a sum is unknown."""
    is_failed = of.c.attempt_status != "completed"
    failed_cost = case((is_failed, of.c.cost_pico))
    failed_calls = func.count(case((is_failed, of.c.step_id)))
    steps = func.count(of.c.step_id)
    return [
        distinct_rows(of).label("rows"),
        steps.label("steps"),
        *(_sum(of.c[name]).label(name) for name in SUMMED),
        *((steps - func.count(of.c[name])).label(f"unknown_{name}") for name in SUMMED),
        _sum(failed_cost).label("failed_cost_pico"),
        (failed_calls - func.count(failed_cost)).label("unknown_failed_cost_pico"),
    ]


def _told(of: FromClause, by: Sequence[Grouping]) -> Select[Any]:
    """The columns of a grouping; see ``views.MEANINGS``."""
    groups: list[ColumnElement[Any]] = []
    for name in by:
        groups += [of.c.label, of.c.label_value] if name == "label" else [of.c[name]]
    known = {
        name: case((of.c[f"unknown_{name}"] == 0, of.c[name]), else_=None)
        for name in (*SUMMED, "failed_cost_pico")
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


def distinct_rows(of: FromClause, condition: Any = None) -> ColumnElement[int]:
    """How many rows the lines are of."""
    row = RowName(of.c.run, of.c.row_id)
    return func.count((row if condition is None else case((condition, row))).distinct())


def _sum(column: ColumnElement[Any]) -> ColumnElement[int]:
    # PostgreSQL sums bigints into a numeric.
    return cast(func.coalesce(func.sum(column), 0), BigInteger)


def _known_sum(of: FromClause, column: ColumnElement[Any]) -> ColumnElement[int | None]:
    """The sum, NULL where a call's part of it is unknown."""
    return case((func.count(column) == func.count(of.c.step_id), _sum(column)), else_=None)


def failures() -> Select[Any]:
    """Attempts that ended in an error, by day, model and error."""
    of = items().where(attempts.c.error_type.is_not(None)).subquery("items")
    groups = (of.c.day, of.c.model, of.c.error_type)
    cost, known = _known_sum(of, of.c.cost_pico), _sum(of.c.cost_pico)
    return (
        select(
            *groups,
            func.count(of.c.attempt_id.distinct()).label("attempts"),
            distinct_rows(of).label("rows"),
            distinct_rows(of, of.c.row_status == "failed").label("failed_rows"),
            cost.label("cost_pico"),
            known.label("known_cost_pico"),
            Dollars(cost).label("cost_usd"),
            Dollars(known).label("known_cost_usd"),
        )
        .group_by(*groups)
        .order_by(*groups)
    )


def unreported() -> Select[Any]:
    """Attempts that may have bought more than their steps say: running, killed, aborted, timed out.

    At most what was set aside for the attempt and is not accounted for; of an agent with tools also a
    further call in each of its sessions, whatever is in their contexts by now.
    """
    talked = (
        select(func.count())
        .select_from(sessions)
        .where(sessions.c.attempt_id == attempts.c.attempt_id)
        .scalar_subquery()
    )
    calls = attempts.c.call_most_pico * case((talked > 1, talked), else_=1)
    at_most = case((calls > attempts.c.reserved_pico, calls), else_=attempts.c.reserved_pico)
    return (
        select(
            UtcDay(attempts.c.started_at).label("day"),
            attempts.c.run_id.label("run"),
            attempts.c.row_id,
            attempts.c.attempt_id,
            attempts.c.attempt,
            attempts.c.started_at,
            attempts.c.status,
            attempts.c.error_type,
            cast(at_most, BigInteger).label("at_most_pico"),
            Dollars(cast(at_most, BigInteger)).label("at_most_usd"),
        )
        .where(attempts.c.usage_known.is_(False))
        .order_by(attempts.c.started_at, attempts.c.attempt_id)
    )


def by_run() -> Select[Any]:
    """The runs with what they spent."""
    sums = spent(("run",)).order_by(None).subquery("sums")
    told = (runs.c.created_at, runs.c.ended_at, runs.c.status, runs.c.origin, runs.c.deployment)
    return (
        select(*told, runs.c.model_ref.label("model"), *sums.c)
        .select_from(runs.join(sums, sums.c.run == runs.c.run_id))
        .order_by(runs.c.created_at, runs.c.run_id)
    )
