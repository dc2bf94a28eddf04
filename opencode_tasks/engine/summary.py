"""A run in one object of plain values: what ``--json`` prints and the flow returns."""

from __future__ import annotations

import time
from typing import Any

from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.ledger import Budget, Ledger, Progress

STATUSES = ("open", "completed", "failed", "skipped")


def summary(run_id: str, progress: Progress, budget: Budget, *, started: float | None) -> dict[str, Any]:
    """Rows by status, tokens, cost in USD and seconds since ``started``; what is unknown is None.

    ``budget`` in USD: ``max_usd`` (None without one), what of it is spent, what more unreported calls
    may have cost, and how far the spending is beyond it.
    """
    counts = {name: getattr(progress, name) for name in STATUSES}
    return {
        "run_id": run_id,
        "rows": {"total": progress.total, **counts, "reused": progress.reused},
        "tokens": {name: getattr(progress, name) for name in TOKEN_COLUMNS},
        "cost_usd": pico_to_usd(progress.cost_pico),
        "known_cost_usd": pico_to_usd(progress.known_cost_pico),
        "budget": _budget(budget),
        "seconds": None if started is None else round(time.time() - started, 3),
    }


def _budget(budget: Budget) -> dict[str, float | None]:
    over = max(0, budget.spent_pico - budget.max_cost_pico) if budget.max_cost_pico is not None else 0
    return {
        "max_usd": pico_to_usd(budget.max_cost_pico),
        "spent_usd": pico_to_usd(budget.spent_pico),
        "unreported_at_most_usd": pico_to_usd(budget.reserved_pico),
        "over_usd": pico_to_usd(over),
    }


def summary_so_far(ledger_url: str, run_id: str) -> dict[str, Any]:
    """The same of a run that has not ended; its seconds are None."""
    with Ledger.open(ledger_url) as ledger:
        return summary(run_id, ledger.runs.progress(run_id), ledger.budgets.get(run_id), started=None)
