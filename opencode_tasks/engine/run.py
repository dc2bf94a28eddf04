"""``annotate``: a frame of prompts in, a frame of answers out, inside any flow."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Unpack

import pandas as pd
from prefect.context import FlowRunContext

from opencode_tasks.domain.money import usd_to_pico
from opencode_tasks.engine.dispatcher import dispatch, is_on_hold
from opencode_tasks.engine.hold import Hold, current_hold, show_waiting, wait_until
from opencode_tasks.engine.result import AnnotationResult, result_of
from opencode_tasks.errors import InputError, RunPausedError, SetupError
from opencode_tasks.ledger import (
    BUDGET_REACHED,
    ConcurrencyState,
    Ledger,
    Progress,
)
from opencode_tasks.local_model import local_provider
from opencode_tasks.opencode.config import merge
from opencode_tasks.opencode.gate_id import gate_id
from opencode_tasks.opencode.leftovers import remove_deserted_dirs
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.orchestration.context import deployment_of, is_deployed
from opencode_tasks.orchestration.new_budget import given_budget
from opencode_tasks.orchestration.runners import check_cluster, is_ray, lanes, most_processes, most_prompts
from opencode_tasks.orchestration.suspend import hold_flow_run
from opencode_tasks.plan.declaration import AnnotateOptions
from opencode_tasks.plan.options import make_options
from opencode_tasks.plan.plan import Plan, make_plan
from opencode_tasks.plan.run_spec import RunSpec
from opencode_tasks.plan.sizing import Sizes, choose_sizes
from opencode_tasks.settings import settings
from opencode_tasks.telemetry import span


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """Event of a run: ``sizes`` at its start, then ``progress`` and ``pace`` about once a second.

    ``hold`` comes with the progress while rows wait for a short time and none may run. During a long wait
    it comes alone, about once a second, until the run continues with ``sizes``.
    """

    run_id: str
    sizes: Sizes | None = None
    reused_rows: int = 0
    progress: Progress | None = None
    pace: ConcurrencyState | None = None
    hold: Hold | None = None


OnRunEvent = Callable[[RunEvent], None]


def annotate(
    frame: pd.DataFrame, *, on_event: OnRunEvent | None = None, **options: Unpack[AnnotateOptions]
) -> AnnotationResult:
    """Run each row's prompt through opencode on the task runner of the flow this is called in.

    ``options`` are those of ``AnnotateOptions``. Raises InputError with every fault of
    frame and options, and SetupError where opencode, the ledger or the cluster is not ready, both
    before any provider is called; and RunPausedError where the run cannot go on by itself. A flow
    run that is started again goes on with the run that it began over the same input.
    """
    wanted = make_options(options)
    with local_provider(wanted.model, lambda _: None) as base_config:
        wanted = replace(wanted, opencode_config=merge(base_config, wanted.opencode_config))
        plan = make_plan(frame, wanted)
        try:
            result = execute(plan, frame, on_event=on_event)
        except RunPausedError as paused:
            if wanted.on_wait == "sleep":
                hold_flow_run(paused, plan.ledger_url, plan.model_ref)
            raise
        if settings().not_kept():
            _ = result.frame
            forget_texts(plan.ledger_url, result.run_id)
        return result


def execute(
    plan: Plan,
    frame: pd.DataFrame,
    *,
    runner: Any = None,
    on_event: OnRunEvent | None = None,
    run_id: str | None = None,
    command: Mapping[str, Any] | None = None,
) -> AnnotationResult:
    """Run a plan in the current flow, on its task runner or on ``runner``; see ``annotate``.

    ``run_id`` goes on with a run of the ledger; ``command`` is kept in it for ``resume``. Texts that are
    not to be kept are still in the ledger: ``forget_texts`` once the answers are where they belong.
    """
    context = FlowRunContext.get()
    if context is None:
        raise SetupError(
            "unknown", raw_message="annotate() was called outside a flow", hint="call it in a @flow"
        )
    chosen = runner or context.task_runner
    remove_deserted_dirs()
    with Ledger.open(plan.ledger_url) as ledger:
        check_cluster(chosen, ledger)
        run_id = _begin(ledger, plan, context.flow_run, run_id, command or {})
        run = _Run(plan=plan, ledger=ledger, run_id=run_id, runner=chosen, tell=on_event or _tell_nobody)
        try:
            with span("opencode run", run_id=run_id, rows=len(plan.rows), model_ref=plan.model_ref):
                run.to_the_end()
        except RunPausedError:
            raise
        except BaseException:
            ledger.runs.end(run_id, status="interrupted", now=datetime.now(UTC))
            raise
        progress = ledger.runs.progress(run_id)
        run.tell(RunEvent(run_id=run_id, progress=progress, reused_rows=run.reused_rows))
        ledger.runs.end(run_id, status="failed" if progress.failed else "completed", now=datetime.now(UTC))
        return result_of(ledger, run_id, frame, plan.options.schema)


def new_run_id() -> str:
    """A run's id: when it began, and a few characters that make it unique."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


def forget_texts(ledger_url: str, run_id: str) -> None:
    """Remove the texts of a run that by the settings are not kept beyond its end."""
    with Ledger.open(ledger_url) as ledger:
        ledger.retention.remove_texts(run_id, settings().not_kept(), now=datetime.now(UTC))


def _tell_nobody(told: RunEvent) -> None:
    del told


def _begin(ledger: Ledger, plan: Plan, flow_run: Any, run_id: str | None, command: Mapping[str, Any]) -> str:
    """The run to work on: the one named, the one this flow run began before, or a new one."""
    flow_run_id = str(flow_run.id) if flow_run else None
    found = run_id or (ledger.runs.find(flow_run_id, plan.fingerprint) if flow_run_id else None)
    gate = gate_of(plan)
    if found is None:
        run_id = new_run_id()
        _create(ledger, run_id, plan, flow_run, command)
        if gate:
            ledger.gates.half_open(gate, now=datetime.now(UTC))
        return run_id
    run = ledger.runs.get(found)
    if run is None:
        raise InputError((f"RUN_ID: there is no run {found} in this ledger (see: opencode-tasks runs)",))
    if run["input_fingerprint"] != plan.fingerprint:
        told = f"run {found}: the input or its settings have changed since the run began; run annotate again"
        raise InputError((f"{told}: answers that still fit are taken over",))
    if gate and (run_id is not None or run["status"] == "paused"):
        # Somebody says that it is mended: one row will tell.
        ledger.gates.half_open(gate, now=datetime.now(UTC))
    ledger.runs.resume(found)
    if (budget := _new_budget(plan, flow_run, is_resumed=run_id is not None)) is not None:
        ledger.budgets.set(found, budget)
    if flow_run_id:
        ledger.runs.add_flow_run(found, flow_run_id)
    return found


def _new_budget(plan: Plan, flow_run: Any, *, is_resumed: bool) -> int | None:
    """The budget that a person gave a run that goes on, in pico-dollars; None leaves it its own.

    A flow run that wakes still has the parameters with which it began.
    """
    if is_resumed and plan.options.max_cost is not None:
        return usd_to_pico(plan.options.max_cost)
    return given_budget(flow_run.id) if flow_run and is_deployed() else None


def gate_of(plan: Plan) -> str | None:
    """The gate that the plan's rows go through, None for an empty plan."""
    if plan.catalog is None:
        return None
    return gate_id(plan.catalog.model_ref, plan.spec, os.environ)


def _create(ledger: Ledger, run_id: str, plan: Plan, flow_run: Any, command: Mapping[str, Any]) -> None:
    now = datetime.now(UTC)
    options = plan.options
    ledger.runs.create(
        run_id=run_id,
        parameters={
            "prompt_column": options.prompt_column,
            "template": options.template,
            "id_column": options.id_column,
            "labels": list(options.label),
            "system": options.system,
            "agent": options.agent,
            "variant": options.variant,
            "schema": options.schema,
            "max_attempts": options.max_attempts,
            "timeout": options.timeout,
            "command": dict(command),
        },
        model_ref=plan.catalog.model_ref if plan.catalog else options.model,
        backend=options.backend,
        opencode_version=plan.catalog.version if plan.catalog else None,
        deployment=deployment_of(flow_run),
        flow_run_id=str(flow_run.id) if flow_run else None,
        input_fingerprint=plan.fingerprint,
        row_count=len(plan.rows),
        refresh=options.refresh,
        series=options.series,
        max_cost_pico=None if options.max_cost is None else usd_to_pico(options.max_cost),
        now=now,
    )
    ledger.rows.add(run_id, plan.rows)
    ids = plan.checked.rows.ids(plan.checked.row_faults)
    for position, fault in plan.checked.row_faults.items():
        ledger.rows.fail(run_id, ids[position], error_type="invalid_input", error_message=fault, now=now)


@dataclass(slots=True, kw_only=True)
class _Run:
    """A run on its way."""

    plan: Plan
    ledger: Ledger
    run_id: str
    runner: Any
    tell: OnRunEvent
    reused_rows: int = 0

    def to_the_end(self) -> None:
        """Run rows, and wait where they must, until none is open."""
        self.reused_rows = self.ledger.rows.reuse_answers(self.run_id, now=datetime.now(UTC))
        while count := self.ledger.rows.count_open(self.run_id):
            run_spec = self._run(count)
            hold = current_hold(self.ledger, self.run_id, run_spec.gate_id)
            if hold is None:
                continue
            if hold.error_type == BUDGET_REACHED and self.plan.options.on_budget == "skip":
                kind, message, now = hold.error_type, hold.message, datetime.now(UTC)
                self.ledger.rows.skip_open(self.run_id, error_type=kind, error_message=message, now=now)
                return
            self._pause(hold)

    def _run(self, count: int) -> RunSpec:
        plan = self.plan
        sizes = choose_sizes(
            rows=count,
            lanes=lanes(self.runner),
            batch_size=plan.options.batch_size,
            concurrency=plan.options.concurrency,
            backend=plan.options.backend,
            model_ref=plan.model_ref,
            one_owner=server_pool.one_owner(plan.spec),
            most=most_prompts(self.runner),
            most_processes=most_processes(self.runner),
        )
        if is_ray(self.runner) or plan.options.backend != "server":
            # The rows run elsewhere; this process needs its server no more.
            server_pool.call(server_pool.end_server, plan.spec)
        self.tell(RunEvent(run_id=self.run_id, sizes=sizes, reused_rows=self.reused_rows))
        run_spec = plan.run_spec(
            self.run_id,
            self.ledger.url,
            sizes.concurrency_per_batch,
            start=sizes.start,
            has_budget=self.ledger.budgets.get(self.run_id).max_cost_pico is not None,
        )
        if not is_on_hold(run_spec, self.ledger):
            dispatch(
                run_spec,
                self.ledger,
                self.runner,
                sizes=sizes,
                on_progress=lambda progress, pace: self._report(run_spec, progress, pace),
            )
        return run_spec

    def _report(self, run_spec: RunSpec, progress: Progress, pace: ConcurrencyState | None) -> None:
        """Emit the progress, with the hold if rows are open and none may run now."""
        is_idle = bool(progress.open) and not (pace and pace.in_flight)
        hold = current_hold(self.ledger, self.run_id, run_spec.gate_id) if is_idle else None
        self.tell(
            RunEvent(
                run_id=self.run_id,
                progress=progress,
                pace=pace,
                hold=hold,
                reused_rows=self.reused_rows,
            )
        )

    def _pause(self, hold: Hold) -> None:
        """Wait here where that is asked for and can help; else raise RunPausedError."""
        self.ledger.rows.hold_open(
            self.run_id,
            error_type=hold.error_type,
            error_message=hold.message,
            until=hold.until,
        )
        self.ledger.runs.pause(self.run_id, until=hold.until, reason=str(hold))
        if hold.until is None or self.plan.options.on_wait != "wait":
            raise RunPausedError(
                self.run_id,
                hold.until,
                hold.error_type,
                hold.message,
                hold.open_rows,
            )
        with show_waiting(hold):
            wait_until(hold.until, lambda: self.tell(RunEvent(run_id=self.run_id, hold=hold)))
        self.ledger.runs.resume(self.run_id)
