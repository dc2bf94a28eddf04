"""Identity of a run as its caller knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from opencode_tasks.domain.flow_call import FlowCall
from opencode_tasks.quality.estimate import Estimate
from opencode_tasks.system import Stop

OnPilot = Callable[[int, Estimate | None], bool]
"""Called with the number of rows after the pilot and their estimate. True sends them."""


def _no_budget() -> int | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """Knowledge about a run that the caller of the engine has and the engine has not.

    Every field has a default: a plain script needs none of them.

    - ``resumed_run_id``: run of the ledger that a person resumes. None starts a new run, or
      continues the one that the same call of an earlier execution of the flow run started.
    - ``part_run_id``: part of a run with votes to continue; None starts a new part.
    - ``flow_call``: call of a Prefect flow run that drives the run; None outside a flow.
    - ``deployment``: ``flow/deployment`` of that flow run; None without a deployment.
    - ``started_at``: start of that flow run (aware UTC); None outside a flow.
    - ``new_budget_pico``: budget in pico-dollars that a part which continues has left; None keeps its budget.
    - ``take_budget``: called if an unfinished run continues. Returns the budget of the whole run in
      pico-dollars that a person gave on resume, once; None keeps the budget of the run.
    - ``command``: options that ``opencode-tasks resume`` needs to prepare the run again; empty for a
      run that no command started. Holds no secrets.
    - ``started_by``: name of the command that started the run and continues it if it is run again, since
      ``opencode-tasks resume`` cannot; None for any other run.
    - ``on_pilot``: called when the rows of the pilot have ended: if it returns False, the run is on hold
      until a person resumes it. None lets the setting ``after_pilot`` decide.
    - ``stop``: request to end the run in order, which the caller may make.
    """

    resumed_run_id: str | None = None
    part_run_id: str | None = None
    flow_call: FlowCall | None = None
    deployment: str | None = None
    started_at: datetime | None = None
    new_budget_pico: int | None = None
    take_budget: Callable[[], int | None] = _no_budget
    command: Mapping[str, Any] = field(default_factory=dict[str, Any])
    started_by: str | None = None
    on_pilot: OnPilot | None = None
    stop: Stop = field(default_factory=Stop)

    @property
    def flow_run_id(self) -> str | None:
        """Prefect flow run that drives the run; None outside a flow."""
        return None if self.flow_call is None else self.flow_call.flow_run_id
