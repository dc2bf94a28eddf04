"""A run that stands still: what it waits for, and how the flow run shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.states import AwaitingRetry, Running

from opencode_tasks.domain.money import format_usd
from opencode_tasks.ledger import BUDGET_REACHED, Budget, Ledger

TELL_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Rows are open and none may run before ``until`` (None: before a person has helped)."""

    until: datetime | None
    error_type: str
    message: str
    open_rows: int

    def __str__(self) -> str:
        rows = "1 row waits" if self.open_rows == 1 else f"{self.open_rows} rows wait"
        when = f"until {self.until:%Y-%m-%d %H:%M:%S} UTC" if self.until else "for a person"
        return f"{rows} {when}: {self.error_type}: {self.message[:200]}"


def current_hold(ledger: Ledger, run_id: str, gate_id: str) -> Hold | None:
    """Why a run stands still; None where it has no open row or one that may run now."""
    open_rows = ledger.rows.count_open(run_id)
    if not open_rows:
        return None
    budget = ledger.budgets.get(run_id)
    if budget.refused_pico is not None:
        message = reached(budget)
        return Hold(until=None, error_type=BUDGET_REACHED, message=message, open_rows=open_rows)
    gate = ledger.gates.get(gate_id)
    now = datetime.now(UTC)
    if gate is not None and not gate.is_open and (gate.reset_time is None or gate.reset_time > now):
        until, error_type, message = gate.reset_time, gate.error_type or "", gate.error_message or ""
    else:
        queue_state = ledger.queue.state(run_id, now=now, until=now, limit=1)
        if queue_state.ready or queue_state.leased or queue_state.next_at is None:
            return None
        until, error_type, message = queue_state.next_at, queue_state.error_type, "rows wait"
    return Hold(until=until, error_type=error_type, message=message, open_rows=open_rows)


def reached(budget: Budget) -> str:
    """What became of a budget that is too little for the next row."""
    told = f"{format_usd(budget.spent_pico)} of {format_usd(budget.max_cost_pico)} is spent"
    if budget.reserved_pico:
        unsure = format_usd(budget.reserved_pico)
        told += f", up to {unsure} more may have been by attempts that were cut short"
    return f"{told}; the next row may cost up to {format_usd(budget.refused_pico)}"


def wait_until(moment: datetime, tell: Callable[[], None]) -> None:
    """Sleep until a moment; ``tell`` is called about every second."""
    while (left_s := (moment - datetime.now(UTC)).total_seconds()) > 0:
        tell()
        time.sleep(min(TELL_EVERY_S, left_s))


@contextmanager
def show_waiting(hold: Hold) -> Generator[None]:
    """The flow run is AwaitingRetry, with the moment and the reason, while its driver waits."""
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    if flow_run is None:
        yield
        return
    # To show it is a courtesy: a server that is away must not end the run.
    with get_client(sync_client=True) as client:
        with suppress(Exception):
            awaiting = AwaitingRetry(scheduled_time=hold.until, message=str(hold))
            client.set_flow_run_state(flow_run.id, awaiting, force=True)
        try:
            yield
        finally:
            with suppress(Exception):
                client.set_flow_run_state(flow_run.id, Running(), force=True)
