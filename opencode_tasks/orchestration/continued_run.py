"""A scheduled flow run whose work an earlier one has begun, and goes on with when it wakes.

A flow run that sleeps until a provider's moment gives up its place in its deployment, so the next one
that is due starts. Over the same rows it would run into the same limit, sleep as well, and so would
every one after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from opencode_tasks.ledger import Ledger, WaitingRun
from opencode_tasks.orchestration.context import deployment_of, is_deployed
from opencode_tasks.plan.plan import Plan


def find_continuing_run(plan: Plan, command: Mapping[str, Any]) -> State[None] | None:
    """The end of this flow run where another sleeps over all its rows; None where it has work to do.

    Only of a flow run that its deployment's schedule began: a person who starts one wants it to run.
    The other is of the same deployment, writes to the same place, and Prefect is to start it again.
    """
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    if flow_run is None or not is_deployed() or not flow_run.auto_scheduled or not len(plan.rows):
        return None
    keys = frozenset(row.row_key for row in plan.rows)
    with Ledger.open(plan.ledger_url) as ledger:
        if ledger.runs.find(str(flow_run.id), plan.fingerprint) is not None:
            # Awake again, or resumed: it goes on with its own.
            return None
        for run in ledger.runs.waiting(deployment_of(flow_run)):
            is_same = run.output == command["output"] and run.refresh == plan.options.refresh
            if is_same and keys <= ledger.rows.keys(run.run_id) and (name := _asleep(run)):
                return Completed(
                    message=f"continued by run {run.run_id} in flow run {name}, which sleeps until "
                    f"{run.waits_until:%Y-%m-%d %H:%M:%S} UTC over the same rows"
                )
    return None


def _asleep(run: WaitingRun) -> str | None:
    """The name of the run's last flow run where Prefect is to start it again."""
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        flow_run = client.read_flow_run(UUID(run.flow_run_ids[-1]))
        if flow_run.state is not None and flow_run.state.is_scheduled():
            return flow_run.name
    return None
