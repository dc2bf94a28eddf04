"""Putting the flow run of a deployment to sleep: no process stays, Prefect starts it again.

Prefect reschedules a flow run whose body raises ``Pause`` in a state that it set itself
(prefect 3.8: AwaitingRetry with a scheduled time by the clock, Suspended by a person's resume).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NoReturn
from uuid import UUID, uuid4

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.states import AwaitingRetry, Suspended

from opencode_tasks.errors import RunPausedError
from opencode_tasks.ledger import BUDGET_REACHED, Budget, Ledger
from opencode_tasks.orchestration.context import is_deployed
from opencode_tasks.orchestration.events import publish_paused
from opencode_tasks.orchestration.new_budget import PAUSE_KEY, ask_for_budget
from opencode_tasks.orchestration.pause_report import pause_report
from opencode_tasks.settings import settings

ARTIFACT_KEY = "opencode-tasks-pause"


def hold_flow_run(paused: RunPausedError, ledger_url: str, model_ref: str) -> NoReturn:
    """End this process; the flow run goes on at the moment named, or once a person resumes it.

    A person finds what to do in the state's message and in an artifact. Where this is no flow run
    of a deployment, ``paused`` is raised.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or not is_deployed():
        raise paused
    if paused.until is None:
        with Ledger.open(ledger_url) as ledger:
            told = pause_report(paused, model_ref, ledger.runs.progress(paused.run_id))
            budget = ledger.budgets.get(paused.run_id)
        # An artifact that could not be written must not lose the suspension.
        with suppress(Exception):
            create_markdown_artifact(told, key=ARTIFACT_KEY, description=str(paused))
        state = _suspended(context.flow_run.id, paused, budget)
    else:
        state = AwaitingRetry(scheduled_time=paused.until, message=str(paused))
    publish_paused(paused)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(context.flow_run.id, state, force=paused.until is not None)
    raise Pause(state=state)


def _suspended(flow_run_id: UUID, paused: RunPausedError, budget: Budget) -> State[Any]:
    # A key of its own each time: under an old key Prefect takes the run for resumed already.
    key = uuid4().hex
    is_budget = paused.error_type == BUDGET_REACHED
    if is_budget:
        key = f"{PAUSE_KEY}{key}"
    state = Suspended(timeout_seconds=int(settings().suspend_timeout), pause_key=key, message=str(paused))
    if is_budget:
        keyset = ask_for_budget(flow_run_id, key, str(paused), budget.max_cost_pico)
        state.state_details.run_input_keyset = {str(name): key for name, key in keyset.items()}
    return state
