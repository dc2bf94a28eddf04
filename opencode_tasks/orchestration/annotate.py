"""``annotate``: a frame of prompts in, a frame of answers out, inside a Prefect flow or without one.

Prefect is not imported unless it is loaded already: a script or a notebook runs without it.
"""

# ruff: noqa: PLC0415  see above

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar, Unpack, overload

import pandas as pd

from opencode_tasks.domain.hold import Hold
from opencode_tasks.engine.executor import Executor
from opencode_tasks.engine.on_hold import OnHold, raise_paused, wait_until
from opencode_tasks.engine.result import AnnotationResult
from opencode_tasks.engine.run import OnRunEvent, RunEvent, forget_texts
from opencode_tasks.engine.thread_executor import ThreadExecutor
from opencode_tasks.engine.votes import execute_plan
from opencode_tasks.errors import RunPausedError
from opencode_tasks.frames.given_frames import ArrowFrame, taken
from opencode_tasks.local_model import local_provider
from opencode_tasks.opencode.config import merge
from opencode_tasks.orchestration.block_resolver import resolve_options
from opencode_tasks.orchestration.context import flow_context, run_context
from opencode_tasks.plan.make_plan import make_plan
from opencode_tasks.plan.option_declarations import AnnotateOptions, OnWait
from opencode_tasks.plan.options import make_options
from opencode_tasks.plan.plan import Plan
from opencode_tasks.plan.run_context import RunContext
from opencode_tasks.settings import settings
from opencode_tasks.system import Stop

FrameT = TypeVar("FrameT", bound=ArrowFrame)
T = TypeVar("T")


@overload
def annotate(
    frame: FrameT,
    *,
    output_type: type[T],
    on_event: OnRunEvent | None = None,
    **options: Unpack[AnnotateOptions],
) -> AnnotationResult[FrameT, T]: ...
@overload
def annotate(
    frame: FrameT,
    *,
    output_type: Any = None,
    on_event: OnRunEvent | None = None,
    **options: Unpack[AnnotateOptions],
) -> AnnotationResult[FrameT, Any]: ...
def annotate(
    frame: FrameT,
    *,
    output_type: Any = None,
    on_event: OnRunEvent | None = None,
    **options: Unpack[AnnotateOptions],
) -> AnnotationResult[FrameT, Any]:
    """Send the prompt of each row through opencode and return the answers.

    In a Prefect flow, sync or async, batches run on the task runner of the flow, and in a task on threads of
    its process. Each call starts a run; if Prefect executes the flow run or the task again, the call
    continues its run. Elsewhere, in a script or a notebook, batches run on threads of this process, without
    Prefect. The call blocks in all cases.

    Args:
        frame: Table with one row per prompt: a frame of pandas or polars, a pyarrow table, or any object with
            ``__arrow_c_stream__``. The frame of the result is of the same kind. A pandas frame is copied:
            later changes to it do not affect the result.
        output_type: Type of the answers, in place of ``schema``: a pydantic model, a dataclass, a TypedDict
            or another type that pydantic knows, such as ``list[str]``. Each field becomes a column, and
            ``answers`` of the result has the instances. The validators of the type check each answer that
            arrives. None for none.
        on_event: Function that is called in this thread, about every second, with the sizes, the progress
            and the holds of the run.
        **options: Options of ``AnnotateOptions``, named as on the command line.

    Returns:
        The answers, one row per input row, and the usage and cost of the run.

    Raises:
        InputError: If the frame or an option is invalid, with every fault. No provider has been called.
        SetupError: If opencode, the ledger or the cluster is not ready. No provider has been called.
        RunPausedError: If the run is on hold and does not wait. Open rows are sent when the call is repeated.

    Examples:
        >>> import pandas as pd
        >>> from opencode_tasks import annotate
        >>> reviews = pd.DataFrame({"id": [1, 2], "text": ["Works well.", "Broke after a day."]})
        >>> result = annotate(
        ...     reviews,
        ...     model="anthropic/claude-haiku-4-5",
        ...     template="Is this review positive or negative? {text}",
        ...     id_column="id",
        ... )
        >>> result.frame[["id", "text", "response", "status"]]
           id                text  response     status
        0   1         Works well.  positive  completed
        1   2  Broke after a day.  negative  completed
        >>> bool(result.cost["cost_usd"].sum() > 0)
        True
    """
    source = taken(frame)
    wanted = make_options(options, output_type)
    with local_provider(wanted.models or wanted.model, _ignore) as base_config:
        wanted = replace(wanted, opencode_config=merge(base_config, wanted.opencode_config))
        plan = make_plan(source, resolve_options(wanted))
        try:
            result = execute_here(plan, source, on_event=on_event).of_kind(type(frame))
        except RunPausedError as paused:
            if wanted.on_wait == "sleep" and flow_context() is not None:
                from opencode_tasks.orchestration.suspend import end_process_for

                end_process_for(paused, plan)
            raise
        if settings().not_kept():
            _ = result.frame
            forget_texts(plan.ledger_url, result.run_id)
        return result


def execute_here(
    plan: Plan,
    frame: pd.DataFrame,
    *,
    context: RunContext | None = None,
    executor: Executor | None = None,
    on_event: OnRunEvent | None = None,
) -> AnnotationResult[Any]:
    """Execute a plan in the current flow run, or without Prefect if there is none; see ``execute_plan``.

    Batches run on ``executor``: by default the task runner of the flow, or threads in a task and without a
    flow. The flow run is AwaitingRetry while the run waits. ``context`` names the run to resume and the
    command to keep.
    """
    context = context or RunContext()
    flow = flow_context()
    if flow is None:
        return execute_plan(
            plan,
            frame,
            executor=executor or ThreadExecutor(),
            context=context,
            on_event=on_event,
            on_hold=_hold_handler(plan.options.on_wait, on_event or _ignore_event, context.stop),
        )
    emit = on_event or _ignore_event
    if executor is not None:
        return _execute_in_flow(plan, frame, context, executor, emit)
    from opencode_tasks.orchestration.runners import TaskRunnerExecutor, runner_of_batches

    with runner_of_batches(flow) as runner:
        return _execute_in_flow(plan, frame, context, TaskRunnerExecutor(runner), emit)


def _execute_in_flow(
    plan: Plan, frame: pd.DataFrame, context: RunContext, executor: Executor, on_event: OnRunEvent
) -> AnnotationResult[Any]:
    """Execute a plan in the current flow run, which logs the events of the run."""
    from opencode_tasks.orchestration.resume import take_budget
    from opencode_tasks.orchestration.run_log import RunLog
    from opencode_tasks.orchestration.suspend import awaiting_retry

    flow_run, run_log = run_context(), RunLog(plan)

    def emit(event: RunEvent) -> None:
        run_log.show(event)
        on_event(event)

    try:
        result = execute_plan(
            plan,
            frame,
            executor=executor,
            context=replace(
                context,
                flow_call=flow_run.flow_call,
                deployment=flow_run.deployment,
                started_at=flow_run.started_at,
                take_budget=take_budget,
            ),
            on_event=emit,
            on_hold=_hold_handler(
                plan.options.on_wait, emit, context.stop, log=run_log.hold, show=awaiting_retry
            ),
        )
    except RunPausedError as paused:
        run_log.paused(paused)
        raise
    run_log.finished(result, flow_run.started_at)
    return result


def _hold_handler(
    on_wait: OnWait,
    on_event: OnRunEvent,
    stop: Stop,
    *,
    log: Callable[[Hold], None] | None = None,
    show: Callable[[Hold], AbstractContextManager[object]] = nullcontext,
) -> OnHold:
    """Handler that waits in this process if ``on_wait`` is "wait" and the hold has an end, else raises.

    ``log`` is called for each hold, ``show`` is the context of a wait in this process.
    """

    def on_hold(run_id: str, hold: Hold) -> None:
        def emit() -> None:
            on_event(RunEvent(run_id=run_id, hold=hold))

        if log is not None:
            log(hold)
        if hold.until is None or on_wait != "wait":
            raise_paused(run_id, hold)
            return
        with show(hold):
            wait_until(hold.until, emit, stop)

    return on_hold


def _ignore_event(event: RunEvent) -> None:
    del event


def _ignore(message: str) -> None:
    del message
