"""A prepared run from its first row to its written output, in a Prefect flow or without one.

Prefect is not imported here: the command line runs without it unless an API is configured.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import pandas as pd

from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.engine.executor import Executor
from opencode_tasks.engine.result import AnnotationResult, output_parts, summary
from opencode_tasks.engine.run import CANARIES, OnRunEvent, RunEvent, forget_texts
from opencode_tasks.errors import LowAccuracyError, RunPausedError, SetupError, TooManyFailedError
from opencode_tasks.ledger import Ledger, ledger_argument
from opencode_tasks.orchestration.annotate import execute_here
from opencode_tasks.orchestration.context import run_context
from opencode_tasks.orchestration.publisher import Publisher
from opencode_tasks.outcomes.message_cleanup import one_line
from opencode_tasks.plan.command import PreparedRun, allowed_failures


def run_to_output(
    prepared: PreparedRun,
    executor: Executor | None = None,
    on_event: OnRunEvent | None = None,
    publisher: Publisher | None = None,
) -> dict[str, Any]:
    """Execute a prepared run and write its output; returns the summary.

    Batches run on ``executor``: by default the task runner of the flow, or threads without a flow.

    The output is also written if the run is stopped, cancelled or paused, with open rows in it. Raises
    RunPausedError if the run is paused, TooManyFailedError if more rows failed than are allowed, and
    LowAccuracyError if the answers are less accurate than is required.
    """
    frame, plan = prepared.frame, prepared.plan
    started_at = run_context().started_at
    started_s = time.time() if started_at is None else started_at.timestamp()
    run_ids: list[str] = []
    publisher = publisher or Publisher()

    def emit(event: RunEvent) -> None:
        run_ids.append(event.run_id)
        # The rows of the run are not those of its canaries.
        if event.progress is not None and event.part != CANARIES:
            publisher.progress(event.run_id, event.progress)
        if event.canary is not None and event.canary.has_drift:
            publisher.drift(event.run_id, event.canary)
        if on_event is not None:
            on_event(event)

    try:
        result = execute_here(plan, frame, context=prepared.context, executor=executor, on_event=emit)
    except RunPausedError as paused:
        _write_open(prepared, paused.run_id, emit, publisher)
        publisher.stopped(plan.ledger_url, paused.run_id)
        raise
    except Exception:
        raise
    except BaseException:
        # A stop: Ctrl-C, or the signal with which Prefect cancels a flow run.
        if run_ids:
            _write_open(prepared, run_ids[0], emit, publisher)
            publisher.stopped(plan.ledger_url, run_ids[0])
            resume = f"opencode-tasks resume {run_ids[0]}{ledger_argument(plan.ledger_url)}"
            publisher.warning(f"run {run_ids[0]} was stopped; finished rows are kept: {resume} continues it")
        raise
    _write(prepared, prepared.context.stop.checked(result.parts()), result.run_id)
    publisher.info(f"output: {without_url_secrets(prepared.context.command['output'])}")
    forget_texts(plan.ledger_url, result.run_id)
    totals = summary(
        result.run_id,
        result.progress,
        result.budget,
        started=started_s,
        quality=result.quality,
        votes=result.votes,
        canary=result.canary,
        models=result.models,
    )
    with Ledger.open(plan.ledger_url) as ledger:
        publisher.finished(result.run_id, result.progress, ledger.results.cost(result.run_id), totals)
    _check_limits(prepared, result, totals)
    return totals


def _check_limits(prepared: PreparedRun, result: AnnotationResult[Any], totals: dict[str, Any]) -> None:
    """Raise TooManyFailedError or LowAccuracyError if the result is not as good as the options require."""
    failed = result.progress.failed
    allowed = allowed_failures(prepared.max_failed, len(prepared.frame))
    if allowed is not None and failed > allowed:
        raise TooManyFailedError(result.run_id, failed, allowed, totals)
    for field, quality in result.quality.items() if len(prepared.frame) else ():
        # None of the rows with a known value may have an answer.
        if prepared.min_accuracy is not None and (quality.accuracy or 0.0) < prepared.min_accuracy:
            raise LowAccuracyError(result.run_id, field, quality.accuracy, prepared.min_accuracy, totals)


def _write_open(prepared: PreparedRun, run_id: str, emit: OnRunEvent, publisher: Publisher) -> None:
    """Write the output of a run that has open rows; warn if that fails, because the run can continue."""
    plan = prepared.plan
    try:
        with Ledger.open(plan.ledger_url) as ledger:
            parts = output_parts(ledger, run_id, prepared.frame, plan.columns)
            _write(prepared, parts, run_id)
    except SetupError as error:
        publisher.warning(error.raw_message)
        emit(RunEvent(run_id=run_id, output_fault=error.raw_message))


def _write(prepared: PreparedRun, parts: Iterable[pd.DataFrame], run_id: str) -> None:
    """Write the output of a run. Raises SetupError, with the way to write it later, if that fails."""
    try:
        prepared.output.write(parts, run_id)
    except Exception as error:
        target = without_url_secrets(prepared.context.command["output"])
        reason = error.strerror if isinstance(error, OSError) else None
        export = f"opencode-tasks export {run_id} -o FILE{ledger_argument(prepared.plan.ledger_url)}"
        raise SetupError(
            "unknown",
            raw_message=f"OUTPUT {target} cannot be written: {reason or one_line(str(error))}; "
            f"the answers of run {run_id} are in the ledger",
            hint=f"{export} writes them",
        ) from error
