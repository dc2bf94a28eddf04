"""The Prefect flow run that code is called in, if any.

Prefect is not imported unless it is loaded already: outside a flow nothing of it is needed.
"""

# ruff: noqa: PLC0415  see above

from __future__ import annotations

import sys
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from opencode_tasks.domain.flow_call import FlowCall
from opencode_tasks.plan.run_context import RunContext

if TYPE_CHECKING:
    from prefect.context import FlowRunContext


def flow_context() -> FlowRunContext | None:
    """Context of the flow run that this is called in; None outside a flow."""
    if "prefect.context" not in sys.modules:
        return None
    from prefect.context import FlowRunContext

    return FlowRunContext.get()


def task_run_in(flow_run: Any) -> Any:
    """Prefect's TaskRun of this flow run that this is called in; None outside its tasks."""
    from prefect.context import TaskRunContext

    context = TaskRunContext.get()
    return context.task_run if context and context.task_run.flow_run_id == flow_run.id else None


def current_flow_run() -> Any:
    """Prefect's FlowRun that this is called in; None outside a flow."""
    context = flow_context()
    return context.flow_run if context else None


def is_deployed() -> bool:
    """Whether this flow run belongs to a deployment, so that Prefect can start it again."""
    flow_run = current_flow_run()
    return flow_run is not None and flow_run.deployment_id is not None and flow_run.parent_task_run_id is None


def run_context() -> RunContext:
    """Identity of a call in the flow run that this is called in; all fields are None outside a flow."""
    context = flow_context()
    if context is None or context.flow_run is None:
        return RunContext()
    return RunContext(
        flow_call=_flow_call(context.flow_run),
        deployment=deployment_of(context.flow_run),
        started_at=context.start_time,
    )


def _flow_call(flow_run: Any) -> FlowCall:
    """A new call in the current execution of a flow run, and of a task run if there is one."""
    task_run = task_run_in(flow_run)
    return FlowCall(
        call_id=uuid.uuid4().hex,
        flow_run_id=str(flow_run.id),
        # Prefect reads the flow run again at the start of each execution.
        execution=flow_run.run_count,
        task_run_id=None if task_run is None else str(task_run.id),
        task_execution=0 if task_run is None else task_run.run_count,
    )


def deployment_of(flow_run: Any) -> str | None:
    """Deployment of a flow run as ``flow/deployment``, or its id if the names cannot be read.

    None for a flow run without a deployment.
    """
    if not flow_run.deployment_id:
        return None
    from prefect.runtime import deployment
    from prefect.runtime import flow_run as runtime_flow_run

    with suppress(Exception):
        if name := deployment.get_name():
            return f"{runtime_flow_run.get_flow_name()}/{name}"
    return str(flow_run.deployment_id)
