"""Handing a sleeping or suspended flow run of a deployment back to Prefect."""

from __future__ import annotations

from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import PrefectException
from prefect.states import Scheduled

from opencode_tasks.errors import SetupError
from opencode_tasks.orchestration.new_budget import tell_budget


def resume_flow_run(flow_run_id: str, *, max_cost: float | None = None) -> str:
    """Have Prefect start a flow run again now, a suspension that has run out included; what was done.

    ``max_cost`` is a new budget of its run, in USD, told as the form of Prefect's page would.
    Raises SetupError where Prefect does not know the flow run, or where it still runs.
    """
    with get_client(sync_client=True) as client:
        try:
            flow_run = client.read_flow_run(UUID(flow_run_id))
        except (httpx.HTTPError, PrefectException, ValueError) as error:
            raise SetupError(
                "unknown",
                raw_message=f"Prefect cannot tell of flow run {flow_run_id}: {error}",
                hint="set PREFECT_API_URL to the server of the deployment",
            ) from None
        if flow_run.state is not None and flow_run.state.is_running():
            raise SetupError("unknown", raw_message=f"flow run {flow_run.name} is running: nothing to resume")
        if max_cost is not None:
            tell_budget(flow_run.id, max_cost)
        is_paused = flow_run.state is not None and flow_run.state.is_paused()
        # Prefect makes a failure of a suspension that has run out.
        if is_paused and client.resume_flow_run(flow_run.id).status is SetStateStatus.ACCEPT:
            return f"flow run {flow_run.name} was resumed; its worker starts it again"
        client.set_flow_run_state(flow_run.id, Scheduled(message="resumed by opencode-tasks"), force=True)
        return f"flow run {flow_run.name} was scheduled; its worker starts it again"
