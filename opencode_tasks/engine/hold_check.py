"""Whether the rows of a run may be sent now, as the ledger has it, and what happens if not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from opencode_tasks.domain.hold import Hold
from opencode_tasks.domain.money import format_usd
from opencode_tasks.domain.policy import RetryLimits
from opencode_tasks.errors import RunPausedError, ServerError
from opencode_tasks.ledger import BUDGET_REACHED, Budget, Ledger

TICK_S = 1.0

OnHold = Callable[[str, Hold], None]
"""Called with the run id and the hold. Returns when the rows may be sent, or raises."""


def current_hold(ledger: Ledger, run_id: str, gate_id: str, limits: RetryLimits) -> Hold | None:
    """Reason why a run without a running batch is on hold; None if no row is open or one may be sent.

    A hold that would end more than ``max_rate_limit_wait_s`` after the last progress of the run, or an
    outage that lasts longer than ``max_outage_wait_s``, lasts until a person resumes the run: all its rows
    share that fate.
    """
    open_rows = ledger.rows.count_open(run_id)
    if not open_rows:
        return None
    hold = _budget_hold(ledger, run_id) or _gate_hold(ledger, gate_id) or _rows_hold(ledger, run_id)
    if hold is None:
        return None
    hold = outage_limited(hold, ledger, gate_id, limits)
    return replace(_limited(hold, ledger, run_id, limits.max_rate_limit_wait_s), open_rows=open_rows)


def outage_limited(hold: Hold, ledger: Ledger, gate_id: str, limits: RetryLimits) -> Hold:
    """The hold, until a person acts if the provider has been unavailable for too long."""
    if hold.until is None or hold.error_type != ServerError.error_type:
        return hold
    gate = ledger.gates.get(gate_id)
    if gate is None or gate.failing_since is None:
        return hold
    outage_s = (datetime.now(UTC) - gate.failing_since).total_seconds()
    if outage_s <= limits.max_outage_wait_s:
        return hold
    message = (
        f"{gate.error_message or hold.message} (the provider has answered no row for "
        f"{timedelta(seconds=round(outage_s))}; the limit of OPENCODE_TASKS_MAX_OUTAGE_WAIT is "
        f"{timedelta(seconds=round(limits.max_outage_wait_s))})"
    )
    return replace(hold, until=None, message=message)


def _budget_hold(ledger: Ledger, run_id: str) -> Hold | None:
    budget = ledger.budgets.get(run_id)
    if budget.refused_pico is None:
        return None
    return Hold(until=None, error_type=BUDGET_REACHED, message=budget_message(budget), applies_to_all=True)


def _gate_hold(ledger: Ledger, gate_id: str) -> Hold | None:
    gate = ledger.gates.get(gate_id)
    if gate is None or gate.is_open:
        return None
    if gate.reset_time is not None and gate.reset_time <= datetime.now(UTC):
        return None
    return Hold(
        until=gate.reset_time,
        error_type=gate.error_type or "",
        message=gate.error_message or "",
        applies_to_all=True,
    )


def _rows_hold(ledger: Ledger, run_id: str) -> Hold | None:
    queue_state = ledger.queue.state(run_id, limit=1)
    if queue_state.ready or queue_state.leased or queue_state.next_at is None:
        return None
    return Hold(until=queue_state.next_at, error_type=queue_state.error_type, message="rows wait")


def _limited(hold: Hold, ledger: Ledger, run_id: str, max_wait_s: float) -> Hold:
    since = ledger.runs.last_progress(run_id)
    if hold.until is None or since is None or (hold.until - since).total_seconds() <= max_wait_s:
        return hold
    limit = timedelta(seconds=round(max_wait_s))
    message = (
        f"{hold.message} (the wait until {hold.until:%Y-%m-%d %H:%M:%S} UTC is longer than {limit}, "
        "the limit of OPENCODE_TASKS_MAX_RATE_LIMIT_WAIT)"
    )
    return replace(hold, until=None, message=message)


def must_stop_sending(ledger: Ledger, run_id: str, gate_id: str, *, max_inline_wait_s: float) -> bool:
    """Whether no row of the run can be sent for longer than a batch waits.

    True if the budget is used up, or if the gate is closed for that long or until a person acts.
    """
    if ledger.budgets.get(run_id).refused_pico is not None:
        return True
    gate = ledger.gates.get(gate_id)
    if gate is None or gate.is_open:
        return False
    if gate.reset_time is None:
        # A refusal that may concern one row alone is confirmed by a second row first.
        return gate.is_confirmed
    return (gate.reset_time - datetime.now(UTC)).total_seconds() > max_inline_wait_s


def budget_message(budget: Budget) -> str:
    """Message for a budget that is too small for the next row: amounts spent, uncertain and needed."""
    message = f"{format_usd(budget.spent_pico)} of {format_usd(budget.max_cost_pico)} is spent"
    if budget.reserved_pico:
        uncertain = format_usd(budget.reserved_pico)
        message += f", up to {uncertain} more may have been spent by attempts that were cut short"
    return f"{message}; the next row may cost up to {format_usd(budget.refused_pico)}"


def raise_paused(run_id: str, hold: Hold) -> None:
    """Handle a hold by raising RunPausedError."""
    raise RunPausedError(run_id, hold.until, hold.error_type, hold.message, hold.open_rows)


def wait_until(time_utc: datetime, on_tick: Callable[[], None]) -> None:
    """Sleep until ``time_utc``. ``on_tick`` is called about every second."""
    while (remaining_s := (time_utc - datetime.now(UTC)).total_seconds()) > 0:
        on_tick()
        time.sleep(min(TICK_S, remaining_s))
