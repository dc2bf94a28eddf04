"""Reading and checking a table, running it in the current flow, and writing what came of it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger

from opencode_tasks.engine.result import output_parts
from opencode_tasks.engine.run import RunEvent, execute, forget_texts
from opencode_tasks.engine.summary import summary
from opencode_tasks.errors import RunPausedError, TooManyFailedError
from opencode_tasks.ledger import Ledger
from opencode_tasks.local_model import local_provider
from opencode_tasks.orchestration.context import is_deployed
from opencode_tasks.orchestration.continued_run import find_continuing_run
from opencode_tasks.orchestration.events import PrefectPublisher
from opencode_tasks.orchestration.runners import RunnerName, started, task_runner
from opencode_tasks.orchestration.suspend import hold_flow_run
from opencode_tasks.plan.command import PreparedRun, prepare
from opencode_tasks.plan.failure_limit import allowed_failures
from opencode_tasks.plan.options import OnWait

# The command line checks its input before Prefect and Ray are started, and hands over what it has.
handed_over: ContextVar[PreparedRun | None] = ContextVar("handed_over", default=None)


def run(
    source: str,
    target: str,
    *,
    runner: RunnerName | None,
    ray_address: str | None,
    limit: int | None,
    no_wait: bool,
    **options: Any,
) -> dict[str, Any] | State[None]:
    """The body of the flow: what was handed over, or a new preparation, through to the output.

    ``runner`` None runs the rows on the flow's own task runner. A state, and nothing done, where
    another flow run goes on with these rows; else the summary.
    """
    prepared = handed_over.get()
    if prepared is not None:
        return _finish_on(runner, ray_address, prepared)
    with local_provider(options.get("model"), _say_nothing) as base_config:
        on_wait = on_wait_mode(no_wait=no_wait)
        prepared = prepare(
            source,
            target,
            limit=limit,
            runner=runner,
            ray_address=ray_address,
            base_config=base_config,
            on_wait=on_wait,
            **options,
        )
        if (end := find_continuing_run(prepared.plan, prepared.command)) is not None:
            get_run_logger().info("%s", end.message)
            return end
        return _finish_on(runner, ray_address, prepared)


def _finish_on(runner: RunnerName | None, ray_address: str | None, prepared: PreparedRun) -> dict[str, Any]:
    if runner is None:
        return finish(prepared)
    with task_runner(runner, ray_address) as chosen, started(chosen):
        return finish(prepared, runner=chosen)


def on_wait_mode(*, no_wait: bool) -> OnWait:
    """How this flow run waits for long: asleep in a deployment, else here, or not at all."""
    if is_deployed():
        return "sleep"
    return "raise" if no_wait else "wait"


def _say_nothing(message: str) -> None:
    del message


def finish(prepared: PreparedRun, *, runner: Any = None) -> dict[str, Any]:
    """Run a plan in the current flow and write its output; the summary.

    Interrupted, cancelled or paused, the output is written all the same, with its open rows in it.
    Paused in a deployment, the flow run goes to sleep; else RunPausedError is raised on. Raises
    TooManyFailedError, with the output written, where more rows failed than may.
    """
    frame, plan = prepared.frame, prepared.plan
    context = FlowRunContext.get()
    began = context.start_time.timestamp() if context else None
    run_ids: list[str] = []
    publisher = PrefectPublisher()

    def tell(told: RunEvent) -> None:
        run_ids.append(told.run_id)
        if told.progress is not None:
            publisher.progress(told.run_id, told.progress)
        if prepared.on_event is not None:
            prepared.on_event(told)

    try:
        result = execute(
            plan,
            frame,
            runner=runner,
            on_event=tell,
            run_id=prepared.run_id,
            command=prepared.command,
        )
    except RunPausedError as paused:
        _write_so_far(prepared, paused.run_id)
        if plan.options.on_wait == "sleep":
            hold_flow_run(paused, plan.ledger_url, plan.model_ref)
        raise
    except (KeyboardInterrupt, TerminationSignal):
        if run_ids:
            _write_so_far(prepared, run_ids[0])
            get_run_logger().warning(
                "run %s was stopped; what was finished is kept: opencode-tasks resume goes on", run_ids[0]
            )
        raise
    prepared.output.write(result.parts(), result.run_id)
    forget_texts(plan.ledger_url, result.run_id)
    told = summary(result.run_id, result.progress, result.budget, started=began)
    with Ledger.open(plan.ledger_url) as ledger:
        publisher.finished(result.run_id, result.progress, ledger.results.cost(result.run_id), told)
    allowed = allowed_failures(prepared.max_failed, len(frame))
    if allowed is not None and result.progress.failed > allowed:
        raise TooManyFailedError(result.run_id, result.progress.failed, allowed, told)
    return told


def _write_so_far(prepared: PreparedRun, run_id: str) -> None:
    plan = prepared.plan
    with Ledger.open(plan.ledger_url) as ledger:
        parts = output_parts(ledger, run_id, prepared.frame, plan.options.schema)
        prepared.output.write(parts, run_id)
