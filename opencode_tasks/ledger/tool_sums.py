"""Rows whose agent called tools: counts and costs by the tools, the denied tools and the check."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, cast, func, not_, select

from opencode_tasks.ledger.schema import is_canary, rows, runs, usage
from opencode_tasks.ledger.usage_sums import count_if

# The column ``tools_called`` of an agent that called none.
NO_TOOLS = "[]"


def tool_sums(since: datetime | None) -> Select[Any]:
    """One line for each combination of ``tools_called``, ``tools_denied`` and ``check_passed``.

    Columns: ``rows``, ``unknown_rows`` (those whose cost is not known), ``steps`` (model calls) and
    ``known_cost_pico``, failed attempts included. ``since`` is the time after which a row ended. A row with a
    reused answer has called nothing; of a row with votes each vote counts, and canaries do not.
    """
    of_rows = (
        select(
            *(rows.c[name] for name in ("tools_called", "tools_denied", "check_passed", "cost_pico")),
            _of_row(func.count()).label("steps"),
            _of_row(func.coalesce(func.sum(usage.c.cost_pico), 0)).label("known_cost_pico"),
        )
        .join(runs, runs.c.run_id == rows.c.run_id)
        .where(
            rows.c.tools_called != NO_TOOLS,
            rows.c.reused.is_(False),
            runs.c.votes.is_(None),
            not_(is_canary),
        )
    )
    if since is not None:
        of_rows = of_rows.where(rows.c.completed_at >= since)
    line = of_rows.subquery("of_rows")
    groups = (line.c.tools_called, line.c.tools_denied, line.c.check_passed)
    return (
        select(
            *groups,
            func.count().label("rows"),
            count_if(line.c.cost_pico.is_(None)).label("unknown_rows"),
            # PostgreSQL sums bigints to a numeric.
            cast(func.sum(line.c.steps), BigInteger).label("steps"),
            cast(func.sum(line.c.known_cost_pico), BigInteger).label("known_cost_pico"),
        )
        .group_by(*groups)
        .order_by(*groups)
    )


def _of_row(value: ColumnElement[Any]) -> Any:
    """An aggregate over the model calls of a row."""
    is_of_row = (usage.c.run_id == rows.c.run_id) & (usage.c.row_id == rows.c.row_id)
    return select(value).select_from(usage).where(is_of_row).correlate(rows).scalar_subquery()
