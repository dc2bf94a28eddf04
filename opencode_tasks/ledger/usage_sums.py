"""Sums over usage in which unknown stays unknown.

A sum is None if a step has None there, or if no step is known although an attempt may have had
usage. It is 0 if there was no usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    bindparam,
    case,
    cast,
    func,
    not_,
    select,
    true,
)

from opencode_tasks.domain.records import TOKEN_COLUMNS, AttemptRecord
from opencode_tasks.ledger.schema import attempts, rows, usage

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


def _totals(found: Mapping[Any, Any], unknown_attempts: int) -> dict[str, Any]:
    """The columns of ``known_sums`` and ``cost_source``, which is None if nothing is known."""
    totals = known_sums(found, unknown_attempts)
    is_known = found["steps"] or totals["cost_pico"] == 0
    return {**totals, "cost_source": cost_source(found) if is_known else None}


def _row_totals_query() -> Select[Any]:
    counted = select(
        func.count().label("attempts"),
        count_if(not_(attempts.c.usage_known)).label("unknown"),
        func.min(attempts.c.started_at).label("started_at"),
    ).where(attempts.c.run_id == bindparam("run"), attempts.c.row_id == bindparam("row"))
    summed = select(*sums()).where(usage.c.run_id == bindparam("run"), usage.c.row_id == bindparam("row"))
    first, second = counted.subquery("counted"), summed.subquery("summed")
    return select(first, second).select_from(first.join(second, true()))


# Built once: it runs for every row, and building it costs more than running it.
_ROW_TOTALS = _row_totals_query()


def row_totals(connection: Connection, run_id: str, row_id: str) -> dict[str, Any]:
    """The columns of ``rows`` that are computed from its attempts, failed ones included.

    These are the columns with the source ``attempts``, and ``started_at``.
    """
    found = connection.execute(_ROW_TOTALS, {"run": run_id, "row": row_id}).mappings().one()
    return {
        **_totals(found, found["unknown"]),
        "attempts": found["attempts"],
        "started_at": found["started_at"],
    }


def record_totals(record: AttemptRecord) -> dict[str, Any]:
    """The token columns, ``cost_pico`` and ``cost_source`` of a row with this one attempt."""
    steps = record.steps
    found: dict[str, Any] = {
        "steps": len(steps),
        **{source: any(step.cost_source == source for step in steps) for source in ("unpriced", "computed")},
    }
    for name in SUM_COLUMNS:
        values = [value for step in steps if (value := getattr(step.usage, name)) is not None]
        found |= {name: sum(values), f"known_{name}": len(values)}
    return _totals(found, 0 if record.usage_known else 1)


def update_row_totals(connection: Connection, run_id: str, row_id: str) -> None:
    """Write the totals of a row. A reused row is not changed: it shows those of its source."""
    connection.execute(
        rows.update()
        .where(rows.c.run_id == run_id, rows.c.row_id == row_id, not_(rows.c.reused))
        .values(**row_totals(connection, run_id, row_id))
    )
