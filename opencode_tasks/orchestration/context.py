"""The deployment that a flow run belongs to."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from prefect.context import FlowRunContext
from prefect.runtime import deployment as prefect_deployment
from prefect.runtime import flow_run as prefect_flow_run


def is_deployed() -> bool:
    """Whether this flow run belongs to a deployment, so that something starts it again."""
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    return flow_run is not None and flow_run.deployment_id is not None and flow_run.parent_task_run_id is None


def deployment_of(flow_run: Any) -> str | None:
    """Prefect's ``flow/deployment``, its id where the names cannot be had; None for a run by hand."""
    if not flow_run or not flow_run.deployment_id:
        return None
    with suppress(Exception):
        if name := prefect_deployment.get_name():
            return f"{prefect_flow_run.get_flow_name()}/{name}"
    return str(flow_run.deployment_id)
