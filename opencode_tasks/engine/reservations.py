"""What an attempt may cost, set aside in the run's budget before it is sent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from opencode_tasks.domain.prices import Price
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.backend import DEFAULT_AGENT, OpencodeSpec
from opencode_tasks.plan.run_spec import RunSpec, system_text

LOOK_EVERY_S = 2.0
# An answer that does not fit its schema gets one repair turn.
CALLS_WITH_SCHEMA = 2


def most_it_can_cost(
    price: Price, prompt: str, *, spec: OpencodeSpec, system: str | None, schema: Mapping[str, Any] | None
) -> int:
    """Pico-dollars that one attempt at a prompt can cost without tools."""
    texts = (prompt, system_text(spec, system, schema) or "")
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return price.most(size, calls=1 if schema is None else CALLS_WITH_SCHEMA)


class Reservations:
    """The larger of what a row's prompt and the output limit can cost, and of what dear rows did cost."""

    def __init__(self, run_spec: RunSpec, ledger: Ledger) -> None:
        self.run_spec = run_spec
        self.ledger = ledger
        self._dear = 0
        self._looked_at: float | None = None

    def for_prompt(self, prompt: str) -> int:
        """Pico-dollars to set aside; 0 where the model's price is unknown."""
        run_spec = self.run_spec
        if run_spec.price is None:
            return 0
        most = most_it_can_cost(
            run_spec.price, prompt, spec=run_spec.spec, system=run_spec.system, schema=run_spec.schema
        )
        return max(most, self._costliest_row()) if run_spec.has_budget else most

    def further_call(self) -> int:
        """The most that one more call of an agent may cost; our own agent without tools makes none."""
        run_spec = self.run_spec
        has_tools = run_spec.spec.agent != DEFAULT_AGENT or run_spec.spec.tools or run_spec.spec.mcp_servers
        return run_spec.price.most_of_a_call() if run_spec.price and has_tools else 0

    def _costliest_row(self) -> int:
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at >= LOOK_EVERY_S:
            self._dear = self.ledger.budgets.high_row_cost(self.run_spec.run_id) or 0
            self._looked_at = now
        return self._dear
