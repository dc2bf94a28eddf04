"""Resume: flow runs of a deployment that sleep or are suspended, and the budget that a person gives them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.input import RunInput
from prefect.input.run_input import keyset_from_base_key
from prefect.states import Completed, Scheduled
from pydantic import Field

from opencode_tasks.domain.money import pico_to_usd, usd_to_pico
from opencode_tasks.errors import SetupError
from opencode_tasks.ledger import Ledger, WaitingRun
from opencode_tasks.orchestration.blocking_calls import call_blocking
from opencode_tasks.orchestration.context import current_flow_run, deployment_of, is_deployed
from opencode_tasks.plan.command import PreparedRun

BUDGET_KEY = "budget-"
# Prefect names the input of a suspended flow run by its state and its pause key.
_INPUT_PREFIX = f"suspended-{BUDGET_KEY}"
_MAX_INPUTS = 100


class NewBudget(RunInput):
    """Form that Prefect shows to the person who resumes a run whose budget is used up."""

    max_cost: float = Field(gt=0, title="Budget of the whole run, in USD, including what is spent already")


def resume_flow_run(flow_run_id: str, *, max_cost: float | None = None) -> str:
    """Have Prefect start a flow run again now, even if its suspension has expired; returns a message.

    ``max_cost`` is a new budget of the whole run, in USD; None keeps the budget. Raises SetupError if
    Prefect does not know the flow run, or if the flow run is running.
    """
    with get_client(sync_client=True) as client:
        try:
            flow_run = client.read_flow_run(UUID(flow_run_id))
        except (httpx.HTTPError, PrefectException, ValueError) as error:
            raise SetupError(
                "unknown",
                raw_message=f"cannot read flow run {flow_run_id} from Prefect: {error}",
                hint="set PREFECT_API_URL to the server of the deployment",
            ) from None
        if flow_run.state is not None and flow_run.state.is_running():
            raise SetupError("unknown", raw_message=f"flow run {flow_run.name} is running: nothing to resume")
        if max_cost is not None:
            give_budget(flow_run.id, max_cost)
        is_paused = flow_run.state is not None and flow_run.state.is_paused()
        # Prefect turns an expired suspension into a failure and does not resume it.
        if is_paused and client.resume_flow_run(flow_run.id).status is SetStateStatus.ACCEPT:
            return f"flow run {flow_run.name} was resumed; its worker starts it again"
        client.set_flow_run_state(flow_run.id, Scheduled(message="resumed by opencode-tasks"), force=True)
        return f"flow run {flow_run.name} was scheduled; its worker starts it again"


def budget_keys(pause_key: str) -> dict[str, str]:
    """Keys of the form for a new budget, which the Suspended state with this pause key must name."""
    keyset = keyset_from_base_key(f"suspended-{pause_key}")
    return {str(name): key for name, key in keyset.items()}


def request_budget(flow_run_id: UUID, pause_key: str, message: str, max_cost_pico: int | None) -> None:
    """Have Prefect show the form ``NewBudget`` on resume, filled with the old budget, in USD.

    The flow run must be suspended with this pause key already.
    """
    form: Any = NewBudget.with_initial_data(description=message, max_cost=pico_to_usd(max_cost_pico))
    call_blocking(form.asave, keyset_from_base_key(f"suspended-{pause_key}"), flow_run_id=flow_run_id)


def give_budget(flow_run_id: UUID, max_cost: float) -> None:
    """Store a budget, in USD, that the flow run takes when it starts again."""
    key = keyset_from_base_key(f"{_INPUT_PREFIX}{uuid4().hex}")["response"]
    with get_client(sync_client=True) as client:
        client.create_flow_run_input(flow_run_id, key, NewBudget(max_cost=max_cost).model_dump_json())


def take_budget() -> int | None:
    """Take the budget that a person gave this flow run, in pico-dollars; None without a new one.

    Only flow runs of a deployment are given one. A budget is returned once.
    """
    if not is_deployed():
        return None
    flow_run_id: UUID = current_flow_run().id
    found: int | None = None
    # If the server does not answer, the run keeps its budget.
    with suppress(Exception), get_client(sync_client=True) as client:
        inputs = client.filter_flow_run_input(
            flow_run_id, _INPUT_PREFIX, limit=_MAX_INPUTS, exclude_keys=set()
        )
        for run_input in inputs:
            if not run_input.key.endswith("-response"):
                continue
            with suppress(ValueError):
                found = usd_to_pico(NewBudget.load_from_flow_run_input(run_input).max_cost)
            client.delete_flow_run_input(flow_run_id, run_input.key)
    return found


def find_sleeping_run(prepared: PreparedRun) -> State[None] | None:
    """End state of this flow run if another one sleeps over all its rows; None if it has work to do.

    A flow run that sleeps until a provider's reset time frees its slot in the deployment, so the next
    scheduled one starts. Over the same rows it would meet the same limit and sleep too, and so would
    all that follow. Applies only to flow runs that a schedule started: a person who starts one wants
    it to run. The sleeping run must belong to the same deployment, write the same output, and still
    be scheduled in Prefect.
    """
    plan, output = prepared.plan, prepared.context.command["output"]
    flow_run = current_flow_run()
    if not is_deployed() or not flow_run.auto_scheduled or not len(plan.rows):
        return None
    keys = frozenset(row.row_key for row in plan.rows)
    with Ledger.open(plan.ledger_url) as ledger:
        if ledger.runs.find(str(flow_run.id), plan.fingerprint) is not None:
            # This flow run was started again: it continues its own run.
            return None
        for run in ledger.runs.waiting(deployment_of(flow_run)):
            is_same = (run.output, run.refresh) == (output, plan.options.refresh)
            is_same = is_same and run.models == tuple(plan.options.models)
            if is_same and keys <= ledger.rows.keys(run.run_id) and (name := _scheduled_flow_run(run)):
                return Completed(
                    message=f"continued by run {run.run_id} in flow run {name}, which sleeps until "
                    f"{run.waits_until:%Y-%m-%d %H:%M:%S} UTC over the same rows"
                )
    return None


def _scheduled_flow_run(run: WaitingRun) -> str | None:
    """Name of the last flow run of a run if Prefect will start it again; None if not."""
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        flow_run = client.read_flow_run(UUID(run.flow_run_ids[-1]))
        if flow_run.state is not None and flow_run.state.is_scheduled():
            return flow_run.name
    return None
