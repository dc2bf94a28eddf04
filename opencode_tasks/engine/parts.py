"""Parts of a run: runs of their own, that share the budget and the holds of the run."""

from __future__ import annotations

from dataclasses import replace

from opencode_tasks.domain.hold import Hold
from opencode_tasks.engine.on_hold import OnHold
from opencode_tasks.ledger import BUDGET_REACHED, Ledger, budget_message

ENDED = ("completed", "failed")
"""Status of a part that sends nothing more."""


def budget_left(ledger: Ledger, run_id: str, part_id: str | None) -> int | None:
    """Budget of a part in pico-dollars; None without a budget. A new part has no id yet."""
    budget = ledger.budgets.get(run_id)
    if budget.max_cost_pico is None:
        return None
    own = None if part_id is None else ledger.budgets.get(part_id)
    of_others = budget.spent_pico + budget.reserved_pico
    if own is not None:
        of_others -= own.spent_pico + own.reserved_pico
    return max(0, budget.max_cost_pico - of_others)


def hold_run(ledger: Ledger, run_id: str, part_id: str, hold: Hold, on_hold: OnHold) -> None:
    """Hold a run as its part is held, with the budget of the whole run in the message."""
    if hold.error_type == BUDGET_REACHED:
        refused = ledger.budgets.get(part_id).refused_pico
        whole = replace(ledger.budgets.get(run_id), refused_pico=refused)
        hold = replace(hold, message=budget_message(whole))
    record_hold(ledger, run_id, hold, on_hold)


def record_hold(ledger: Ledger, run_id: str, hold: Hold, on_hold: OnHold) -> None:
    """Record the hold of a run in the ledger, and let the caller wait or raise."""
    ledger.runs.pause(run_id, until=hold.until, reason=str(hold))
    on_hold(run_id, hold)
    ledger.runs.resume(run_id)
