"""Reading and checking a table, running it in the current flow, and writing what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger

from opencode_tasks.errors import InputError, RunPausedError, TooManyFailedError
from opencode_tasks.flow.annotate import AnnotationResult, OnTold, Told, execute, gather
from opencode_tasks.flow.options import OnWait, Options
from opencode_tasks.flow.planning import Plan, make_plan
from opencode_tasks.flow.runners import RunnerName, started, task_runner
from opencode_tasks.flow.sleeping import is_deployed, put_to_sleep
from opencode_tasks.flow.summary import summary
from opencode_tasks.flow.telling import Teller
from opencode_tasks.flow.tolerance import allowed_failures
from opencode_tasks.frames.reading import read_frame
from opencode_tasks.frames.writing import check_output, write_frame
from opencode_tasks.ledger import Ledger
from opencode_tasks.local_model import local_provider
from opencode_tasks.opencode.config import merge, read_config
from opencode_tasks.settings import settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A checked input, ready to run; ``on_told`` is told how the run goes.

    ``command`` is what ``resume`` needs to prepare it again, ``run_id`` the run that it goes on with.
    """

    frame: pd.DataFrame
    plan: Plan
    command: Mapping[str, Any]
    max_failed: str | int | None = None
    run_id: str | None = None
    on_told: OnTold | None = None


# The command line checks its input before Prefect and Ray are started, and hands over what it has.
handed_over: ContextVar[Prepared | None] = ContextVar("handed_over", default=None)


def run(
    source: str,
    target: str,
    *,
    runner: RunnerName | None,
    ray_address: str | None,
    limit: int | None,
    no_wait: bool,
    **options: Any,
) -> dict[str, Any]:
    """The body of the flow: what was handed over, or a new preparation, through to the output.

    ``runner`` None runs the rows on the flow's own task runner.
    """
    prepared = handed_over.get()
    if prepared is not None:
        return _finish_on(runner, ray_address, prepared, target)
    with local_provider(options.get("model"), _say_nothing) as base_config:
        on_wait = waiting_way(no_wait=no_wait)
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
        return _finish_on(runner, ray_address, prepared, target)


def _finish_on(
    runner: RunnerName | None, ray_address: str | None, prepared: Prepared, target: str
) -> dict[str, Any]:
    if runner is None:
        return finish(prepared, target)
    with task_runner(runner, ray_address) as chosen, started(chosen):
        return finish(prepared, target, runner=chosen)


def waiting_way(*, no_wait: bool) -> OnWait:
    """How this flow run waits for long: asleep in a deployment, else here, or not at all."""
    if is_deployed():
        return "sleep"
    return "raise" if no_wait else "wait"


def _say_nothing(message: str) -> None:
    del message


def prepare(
    source: str,
    target: str,
    *,
    limit: int | None = None,
    runner: RunnerName | None = None,
    ray_address: str | None = None,
    base_config: Mapping[str, Any],
    run_id: str | None = None,
    **options: Any,
) -> Prepared:
    """Read and check all there is to check, before anything is spent.

    ``schema`` and ``opencode_config`` may be file names; ``base_config`` lies under the latter.
    ``run_id`` names a run of the ledger to go on with. ``runner`` and ``ray_address`` are only noted.
    Raises InputError with every fault found.
    """
    command = command_of(
        {"input": source, "output": target, "limit": limit, "runner": runner, "ray_address": ray_address}
        | options
    )
    faults = list(check_output(target, input_path=source))
    schema, config = None, dict(base_config)
    try:
        schema = _load_schema(options.pop("schema", None))
    except InputError as error:
        faults += error.faults
    try:
        config = merge(base_config, _load_config(options.pop("opencode_config", None)))
    except InputError as error:
        faults += error.faults
    if limit is not None and limit < 0:
        faults.append(f"--limit: {limit} is below 0")
    frame: pd.DataFrame | None = None
    try:
        frame = read_frame(source, limit=limit)
    except InputError as error:
        faults += error.faults
    max_failed = options.pop("max_failed", None)
    try:
        allowed_failures(max_failed, 0)
    except InputError as error:
        faults += error.faults
    labels = tuple(options.pop("label", ()))
    wanted = Options(labels=labels, schema=schema, opencode_config=config, **options)
    Ledger.open(wanted.ledger or settings().ledger_url()).close()
    try:
        plan = make_plan(frame, wanted)
    except InputError as error:
        faults += error.faults
        plan = None
    if faults or plan is None or frame is None:
        raise InputError(tuple(dict.fromkeys(faults)))
    return Prepared(frame=frame, plan=plan, command=command, run_id=run_id, max_failed=max_failed)


PATHS = ("input", "output", "schema", "opencode_config", "opencode_bin", "work_dir", "log_dir")
NOT_KEPT = ("ledger", "refresh", "on_wait")
GIVEN_AS_VALUE = "given as a value"


def command_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the ledger keeps them for ``resume``: paths in full, and no secret.

    A config that was given as a value can hold one; that there was one is kept.
    """
    kept = {name: value for name, value in options.items() if name not in NOT_KEPT}
    for name in PATHS:
        value = kept.get(name)
        if isinstance(value, str | Path) and "://" not in str(value):
            kept[name] = str(Path(value).absolute())
        elif isinstance(value, Mapping) and name == "opencode_config":
            kept[name] = {GIVEN_AS_VALUE: True}
    return kept


def finish(prepared: Prepared, target: str, *, runner: Any = None) -> dict[str, Any]:
    """Run a plan in the current flow and write its output; the summary.

    Interrupted, cancelled or paused, the output is written all the same, with its open rows in it.
    Paused in a deployment, the flow run goes to sleep; else RunPausedError is raised on. Raises
    TooManyFailedError, with the output written, where more rows failed than may.
    """
    frame, plan = prepared.frame, prepared.plan
    context = FlowRunContext.get()
    began = context.start_time.timestamp() if context else None
    run_ids: list[str] = []
    teller = Teller()

    def tell(told: Told) -> None:
        run_ids.append(told.run_id)
        if told.progress is not None:
            teller.progress(told.run_id, told.progress)
        if prepared.on_told is not None:
            prepared.on_told(told)

    try:
        result: AnnotationResult = execute(
            plan,
            frame,
            runner=runner,
            on_told=tell,
            run_id=prepared.run_id,
            command=prepared.command,
        )
    except RunPausedError as paused:
        _write_so_far(prepared, paused.run_id, target)
        if plan.options.on_wait == "sleep":
            put_to_sleep(paused, plan.ledger_url, plan.model_ref)
        raise
    except (KeyboardInterrupt, TerminationSignal):
        if run_ids:
            _write_so_far(prepared, run_ids[0], target)
            get_run_logger().warning(
                "run %s was stopped; what was finished is kept: opencode-tasks resume goes on", run_ids[0]
            )
        raise
    write_frame(result.frame, target)
    told = summary(result.run_id, result.progress, result.budget, started=began)
    with Ledger.open(plan.ledger_url) as ledger:
        teller.finished(result.run_id, result.progress, ledger.cost(result.run_id), told)
    allowed = allowed_failures(prepared.max_failed, len(frame))
    if allowed is not None and result.progress.failed > allowed:
        raise TooManyFailedError(result.run_id, result.progress.failed, allowed, told)
    return told


def _write_so_far(prepared: Prepared, run_id: str, target: str) -> None:
    plan = prepared.plan
    with Ledger.open(plan.ledger_url) as ledger:
        write_frame(gather(ledger, run_id, prepared.frame, plan.options.schema).frame, target)


def _load_config(value: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """An opencode config given as itself or as a file's name."""
    return read_config(Path(value), "--opencode-config") if isinstance(value, str) else dict(value or {})


def _load_schema(value: str | Mapping[str, Any] | None) -> Any:
    """A schema given as itself or as a file's name; whatever JSON is there."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(Path(value).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError((f"--schema: cannot read {value}: {error.strerror}",)) from None
    except ValueError as error:
        raise InputError((f"--schema: {value} is not JSON: {str(error).splitlines()[0]}",)) from None
