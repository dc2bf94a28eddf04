"""Sums over usage in which unknown stays unknown.

A sum is None if a step has None there, or if no step is known although an attempt may have had
usage. It is 0 if there was no usage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    cast,
    func,
    select,
)

from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.ledger.schema import attempts, usage

SUM_COLUMNS = (*TOKEN_COLUMNS, "cost_pico")


def count_if(condition: Any) -> ColumnElement[int]:
    """How many of the selected rows meet a condition; 0 without rows."""
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def sums() -> list[ColumnElement[Any]]:
    """The aggregates that ``known_sums`` reads, over the usage rows of a query."""
    columns: list[ColumnElement[Any]] = [func.count(usage.c.step_id).label("steps")]
    for name in SUM_COLUMNS:
        # PostgreSQL sums bigints to a numeric.
        columns.append(cast(func.coalesce(func.sum(usage.c[name]), 0), BigInteger).label(name))
        columns.append(func.count(usage.c[name]).label(f"known_{name}"))
    columns.extend(
        count_if(usage.c.cost_source == source).label(source) for source in ("unpriced", "computed")
    )
    return columns


def known_sums(found: Mapping[Any, Any], unknown_attempts: int) -> dict[str, int | None]:
    """The token columns and ``cost_pico`` of a result of ``sums``; None if unknown.

    ``unknown_attempts`` is the number of attempts that may have more usage than their steps.
    """
    if not found["steps"]:
        return dict.fromkeys(SUM_COLUMNS, None if unknown_attempts else 0)
    return {name: found[name] if found[f"known_{name}"] == found["steps"] else None for name in SUM_COLUMNS}


def cost_source(found: Mapping[Any, Any]) -> str:
    """The weakest cost source among the summed steps."""
    if found["unpriced"]:
        return "unpriced"
    return "computed" if found["computed"] else "reported"


_SUMMED = tuple(column.name for column in sums())


def _with_sums_query() -> Select[Any]:
    is_of_attempt = and_(
        usage.c.run_id == attempts.c.run_id,
        usage.c.row_id == attempts.c.row_id,
        usage.c.attempt_id == attempts.c.attempt_id,
    )
    names = ("attempt_id", "row_id", "started_at", "usage_known", "spent_pico", "reserved_pico")
    return (
        select(*(attempts.c[name] for name in (*names, "max_call_pico")), *sums())
        .outerjoin(usage, is_of_attempt)
        .where(
            attempts.c.run_id == bindparam("of_run"),
            attempts.c.row_id.in_(bindparam("ids", expanding=True)),
        )
        .group_by(attempts.c.attempt_id)
    )


# Built once: building it costs more than running it.
_WITH_SUMS = _with_sums_query()


def attempts_with_sums(
    connection: Connection, run_id: str, row_ids: Sequence[str], is_known: Mapping[str, bool] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """The attempts of each of these rows of a run, with the ``sums`` of their usage.

    The usage of an attempt is also known if ``is_known`` says so for its id.
    """
    found: dict[str, list[dict[str, Any]]] = {row_id: [] for row_id in row_ids}
    if not found:
        return found
    known = is_known or {}
    result = connection.execute(_WITH_SUMS, {"of_run": run_id, "ids": list(row_ids)})
    names = list(result.keys())
    for line in result:
        one = dict(zip(names, line, strict=True))
        one["usage_known"] = one["usage_known"] or known.get(one["attempt_id"], False)
        found[one["row_id"]].append(one)
    return found


def row_totals(of_row: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The columns of a row that are computed from its ``attempts_with_sums``, failed ones included.

    These are the columns with the source ``attempts``, and ``started_at``. ``cost_source`` is None if
    nothing is known.
    """
    found = of_row[0] if len(of_row) == 1 else {name: sum(one[name] for one in of_row) for name in _SUMMED}
    totals = known_sums(found, sum(not one["usage_known"] for one in of_row))
    is_known = found["steps"] or totals["cost_pico"] == 0
    return {
        **totals,
        "cost_source": cost_source(found) if is_known else None,
        "attempts": len(of_row),
        "started_at": min((one["started_at"] for one in of_row), default=None),
    }
