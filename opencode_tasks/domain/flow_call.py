"""Calls of ``annotate`` in a flow run, and which of them continues the run of which. Pure.

Prefect executes a flow run again when it is retried or resumed, and then its calls again, in their order.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

from opencode_tasks.domain.json_values import mapping_in


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowCall:
    """A call in an execution of a flow run.

    ``execution`` and ``task_execution`` are the numbers of the executions of the flow run and of the task
    run in which the call is made; ``task_run_id`` is None for a call outside a task.
    """

    call_id: str
    flow_run_id: str
    execution: int
    task_run_id: str | None = None
    task_execution: int = 0

    def continues(self, last: Self | None) -> bool:
        """Whether this call continues the run on which ``last`` worked last; None if that is not known.

        Calls of the same execution have a run each.
        """
        if last is None or last.call_id == self.call_id:
            return True
        if (last.flow_run_id, last.execution) != (self.flow_run_id, self.execution):
            return True
        is_same_task = self.task_run_id is not None and last.task_run_id == self.task_run_id
        return is_same_task and last.task_execution != self.task_execution

    def as_json(self) -> dict[str, Any]:
        """The call as a JSON object."""
        return asdict(self)

    @classmethod
    def of_json(cls, value: Any) -> Self | None:
        """The call of a JSON object that ``as_json`` returned; None for another value."""
        found = mapping_in(value)
        return cls(**found) if found else None
