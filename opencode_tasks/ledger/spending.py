"""What was spent, grouped: the one place that says how, for the views and for reports.

All add up the same lines, those of ``items``: one for each model call, and one without a call for
each attempt that bought nothing and each row that was not asked (taken over, skipped). Days are UTC.
A sum is NULL where a part of it is unknown; ``known_cost_pico`` is the sum of the known parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import BigInteger, ColumnElement, FromClause, Select, and_, case, cast, func, select

from opencode_tasks.ledger.dialects import Dollars, RowName, UtcDay, label_pairs
from opencode_tasks.ledger.tables import attempts, rows, runs, sessions, usage
from opencode_tasks.records import TOKEN_COLUMNS

Grouping = Literal["day", "model", "deployment", "run", "label"]
GROUPINGS: tuple[Grouping, ...] = ("day", "model", "deployment", "run", "label")


def items() -> Select[*tuple[Any, ...]]:
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
) -> Select[*tuple[Any, ...]]:
    """The lines added up by groupings, in their order; one line for all without any.

    ``of`` are the lines, if not those of ``items``. ``since`` and ``before`` are days, the latter not
    counted itself. With ``label`` a row counts under each of its labels, and rows without labels are
    left out.
    """
    of = items().subquery("items") if of is None else of
    groups: list[ColumnElement[Any]] = []
    sources: list[Any] = [of]
    for name in by:
        if name == "label":
            pairs = label_pairs(of.c.labels)
            sources.append(pairs)
            groups += [pairs.c.key.label("label"), pairs.c.value.label("label_value")]
        else:
            groups.append(of.c[name])
    query = select(*groups, *_sums(of)).select_from(*sources)
    if since is not None:
        query = query.where(of.c.day >= since)
    if before is not None:
        query = query.where(of.c.day < before)
    return query.group_by(*groups).order_by(*groups)


def _sums(of: FromClause) -> list[ColumnElement[Any]]:
    """The counted columns of a grouping; see ``views.MEANINGS``."""
    is_failed = of.c.attempt_status != "completed"
    failed_cost = case((is_failed, of.c.cost_pico), else_=0)
    unknown_failed = func.count(case((is_failed, of.c.step_id))) != func.count(
        case((is_failed, of.c.cost_pico))
    )
    cost, known = _known_sum(of, of.c.cost_pico), _sum(of.c.cost_pico)
    known_failed = _sum(failed_cost)
    failed = case((unknown_failed, None), else_=known_failed)
    return [
        distinct_rows(of).label("rows"),
        func.count(of.c.step_id).label("steps"),
        *(_known_sum(of, of.c[name]).label(name) for name in TOKEN_COLUMNS),
        cost.label("cost_pico"),
        known.label("known_cost_pico"),
        failed.label("failed_cost_pico"),
        known_failed.label("known_failed_cost_pico"),
        Dollars(cost).label("cost_usd"),
        Dollars(known).label("known_cost_usd"),
        Dollars(failed).label("failed_cost_usd"),
    ]


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


def failures() -> Select[*tuple[Any, ...]]:
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


def unreported() -> Select[*tuple[Any, ...]]:
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


def by_run() -> Select[*tuple[Any, ...]]:
    """The runs with what they spent."""
    sums = spent(("run",)).order_by(None).subquery("sums")
    told = (runs.c.created_at, runs.c.ended_at, runs.c.status, runs.c.origin, runs.c.deployment)
    return (
        select(*told, runs.c.model_ref.label("model"), *sums.c)
        .select_from(runs.join(sums, sums.c.run == runs.c.run_id))
        .order_by(runs.c.created_at, runs.c.run_id)
    )
