"""Reservations: the amount that an attempt may cost, set aside in the budget before the row is sent."""

from __future__ import annotations

import time

from opencode_tasks.domain.attached_file import most_tokens
from opencode_tasks.ledger import Ledger, OpenRow
from opencode_tasks.opencode.backend import DEFAULT_AGENT
from opencode_tasks.plan.run_spec import RunSpec, attempt_cost_limit_pico, files_of

REFRESH_INTERVAL_S = 2.0


class Reservations:
    """Amounts to reserve for the rows of a run, in pico-dollars.

    A reservation is the larger of two amounts: the cost of the prompt with an answer of full length,
    and the cost of the most expensive row of the run.
    """

    def __init__(self, run_spec: RunSpec, ledger: Ledger) -> None:
        self.run_spec = run_spec
        self.ledger = ledger
        self._costliest_row_pico = 0
        self._refreshed_at: float | None = None

    def for_row(self, row: OpenRow) -> int:
        """Amount to reserve for one attempt at a row; 0 if the price of the model is unknown."""
        run_spec = self.run_spec
        if run_spec.price is None:
            return 0
        limit_pico = attempt_cost_limit_pico(
            run_spec.price,
            row.prompt,
            run_spec.system_of(row),
            calls=run_spec.calls_per_row,
            file_tokens=most_tokens(files_of(row)),
        )
        return max(limit_pico, self._costliest_row()) if run_spec.has_budget else limit_pico

    def further_call(self) -> int:
        """Most that one more model call of an agent may cost; 0 for an agent that makes a single call."""
        run_spec = self.run_spec
        spec = run_spec.spec
        has_tools = spec.agent != DEFAULT_AGENT or spec.tools or spec.mcp_servers or spec.allowed_tools
        return run_spec.price.max_call_cost() if run_spec.price and has_tools else 0

    def _costliest_row(self) -> int:
        now = time.monotonic()
        if self._refreshed_at is None or now - self._refreshed_at >= REFRESH_INTERVAL_S:
            self._costliest_row_pico = self.ledger.budgets.high_row_cost(self.run_spec.run_id) or 0
            self._refreshed_at = now
        return self._costliest_row_pico
