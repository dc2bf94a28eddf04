"""Sums over usage in which the unknown stays unknown.

A sum is None when one of its steps has a None there, or when no step is known although an attempt
may have bought something; it is 0 when nothing was sold.
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

from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.ledger.schema import attempts, rows, usage

SUMMED = (*TOKEN_COLUMNS, "cost_pico")


def sums() -> list[ColumnElement[Any]]:
    """The aggregates that ``settled`` reads, over whatever usage rows a query selects."""
    columns: list[ColumnElement[Any]] = [func.count(usage.c.step_id).label("steps")]
    for name in SUMMED:
        # PostgreSQL sums bigints into a numeric.
        columns.append(cast(func.coalesce(func.sum(usage.c[name]), 0), BigInteger).label(name))
        columns.append(func.count(usage.c[name]).label(f"known_{name}"))
    columns.extend(
        func.coalesce(func.sum(case((usage.c.cost_source == source, 1), else_=0)), 0).label(source)
        for source in ("unpriced", "computed")
    )
    return columns


def settled(found: Mapping[Any, Any], unknown_attempts: int) -> dict[str, int | None]:
    """The token columns and ``cost_pico`` of what ``sums`` found, None where unknown."""
    if not found["steps"]:
        return dict.fromkeys(SUMMED, None if unknown_attempts else 0)
    return {name: found[name] if found[f"known_{name}"] == found["steps"] else None for name in SUMMED}


def _row_totals_query() -> Select[Any]:
    tried = select(
        func.count().label("attempts"),
        func.coalesce(func.sum(case((not_(attempts.c.usage_known), 1), else_=0)), 0).label("unknown"),
        func.min(attempts.c.started_at).label("started_at"),
    ).where(attempts.c.run_id == bindparam("run"), attempts.c.row_id == bindparam("row"))
    sold = select(*sums()).where(usage.c.run_id == bindparam("run"), usage.c.row_id == bindparam("row"))
    counted, bought = tried.subquery("tried"), sold.subquery("sold")
    return select(counted, bought).select_from(counted.join(bought, true()))


# Made once: it runs for every row, and to build it costs more than to run it.
_ROW_TOTALS = _row_totals_query()


def row_totals(connection: Connection, run_id: str, row_id: str) -> dict[str, Any]:
    """The columns of ``rows`` that follow from its attempts and usage, failed attempts included."""
    found = connection.execute(_ROW_TOTALS, {"run": run_id, "row": row_id}).mappings().one()
    totals = settled(found, found["unknown"])
    known_free = not found["steps"] and totals["cost_pico"] == 0
    source = cost_source(found) if found["steps"] or known_free else None
    return {
        **totals,
        "cost_source": source,
        "attempts": found["attempts"],
        "started_at": found["started_at"],
    }


def cost_source(found: Mapping[Any, Any]) -> str:
    """The weakest source among the summed steps."""
    if found["unpriced"]:
        return "unpriced"
    return "computed" if found["computed"] else "reported"


def refresh_row(connection: Connection, run_id: str, row_id: str) -> None:
    """Write the totals of a row that was not reused; one that was shows the original's."""
    connection.execute(
        rows.update()
        .where(rows.c.run_id == run_id, rows.c.row_id == row_id, not_(rows.c.reused))
        .values(**row_totals(connection, run_id, row_id))
    )
