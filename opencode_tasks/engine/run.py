"""Run: executes a plan from its first open row to its last, and waits or pauses if it must."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any, Final

import pandas as pd

from opencode_tasks.domain.advice import usage_warning
from opencode_tasks.domain.hold import PILOT, Hold
from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.domain.next_step import NextStep, hold_of, is_longer_than, next_step
from opencode_tasks.domain.text import no_run
from opencode_tasks.engine.dispatcher import Dispatch
from opencode_tasks.engine.driver import driver_text, driving, other_drivers
from opencode_tasks.engine.estimates import LIKE, estimate_rest, like_parameters
from opencode_tasks.engine.executor import Executor
from opencode_tasks.engine.on_hold import OnHold, raise_paused
from opencode_tasks.engine.quality import gold_values, measure_quality
from opencode_tasks.engine.result import AnnotationResult, read_result
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import BUDGET_REACHED, MODELS, PREPARING, ConcurrencyState, Ledger, Progress
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.opencode.leftovers import remove_orphaned_dirs
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.plan.plan import Plan
from opencode_tasks.plan.run_context import OnPilot, RunContext
from opencode_tasks.plan.run_spec import RunSpec
from opencode_tasks.plan.sizes import Sizes, choose_sizes
from opencode_tasks.quality.drift import CanaryReport
from opencode_tasks.quality.estimate import Estimate
from opencode_tasks.quality.gold import FieldQuality
from opencode_tasks.settings import settings
from opencode_tasks.system import Stop
from opencode_tasks.telemetry import span

CANARIES: Final = "canaries"
"""``RunEvent.part`` of the part that sends the canaries of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """Event of a run, as ``on_event`` of ``annotate`` gets it. Fields that an event does not report are None.

    Attributes:
        run_id: Id of the run in the ledger.
        part: Part of the run that the event is about, such as "vote 2 of 3" or "canaries"; None for the
            rows of a run without votes.
        sizes: Number and size of batches. The run starts to send rows, for the first time or after a hold.
        reused_rows: Number of rows that took their answer from an earlier run.
        progress: Rows, tokens and cost so far: before the first row with ``sizes``, about every second while
            rows are sent, and once at the end.
        pace: Rows in flight and their limit; None if nothing is known about the provider's limit.
        hold: Reason why no row may be sent. Together with ``progress`` during a short wait; alone, about
            every second, during a long wait, until the run continues with ``sizes``.
        estimate: Estimate of the rows after the pilot, once the rows of the pilot have ended.
        quality: Quality of the answers of the pilot by field, at the same time; empty without gold values.
        canary: What the canaries of the run show, once they have ended; not again if the run is resumed.
        warning: Fact that a person should know, once in a run: a provider does not report the usage, or
            another process works on the run too.
        output_fault: Why the output of a run with open rows could not be written, at the end of this
            process. None in all other events.

    Examples:
        >>> import pandas as pd
        >>> from opencode_tasks import RunEvent, annotate
        >>> frame = pd.DataFrame({"prompt": ["one", "two"]})
        >>> events: list[RunEvent] = []
        >>> _ = annotate(frame, backend="null", on_event=events.append)
        >>> events[-1].progress.completed
        2
    """

    run_id: str
    part: str | None = None
    sizes: Sizes | None = None
    reused_rows: int = 0
    progress: Progress | None = None
    pace: ConcurrencyState | None = None
    hold: Hold | None = None
    estimate: Estimate | None = None
    quality: Mapping[str, FieldQuality] = field(default_factory=dict[str, FieldQuality])
    canary: CanaryReport | None = None
    warning: str | None = None
    output_fault: str | None = None


OnRunEvent = Callable[[RunEvent], None]
SendCanaries = Callable[[Ledger, str], CanaryReport]
"""Called with the ledger and the run id before any row of the run is sent."""


def execute(
    plan: Plan,
    frame: pd.DataFrame,
    *,
    executor: Executor,
    context: RunContext | None = None,
    on_event: OnRunEvent | None = None,
    on_hold: OnHold | None = None,
    send_canaries: SendCanaries | None = None,
) -> AnnotationResult[Any]:
    """Execute a plan over ``frame`` and return the result.

    ``context`` names the run to continue, if there is one. ``on_hold`` is called when the run must
    wait for longer than a batch waits, after the hold is recorded in the ledger: the run continues
    when it returns, and ends when it raises. By default it raises RunPausedError. A stop requested through
    ``context`` raises KeyboardInterrupt here, after the rows in flight are recorded.

    Texts that the settings do not keep are still in the ledger afterwards: call ``forget_texts`` when
    the answers are stored elsewhere. Raises InputError if the run to continue does not exist or has
    another input, SetupError if batches cannot be executed, RunPausedError if the run is on hold.
    """
    context = context or RunContext()
    remove_orphaned_dirs()
    with Ledger.open(plan.ledger_url) as ledger:
        executor.check(ledger.url)
        started = start_or_continue(ledger, plan, frame, context)
        run_id = started.run_id
        with driving(ledger, run_id) as driver_id:
            run = _Run(
                plan=plan,
                ledger=ledger,
                run_id=run_id,
                driver_id=driver_id,
                executor=executor,
                emit=on_event or _ignore,
                on_hold=on_hold or raise_paused,
                on_pilot=context.on_pilot or _by_setting,
                stop=context.stop,
                reused_rows=started.reused_rows,
                is_approved=started.is_approved,
            )
            run.warn_of_others()
            canary = None if send_canaries is None else send_canaries(ledger, run_id)
            with span("opencode run", run_id=run_id, rows=len(plan.rows), model_ref=plan.model_ref):
                run.run()
            progress = ledger.runs.progress(run_id)
            run.warn(progress)
            run.emit(RunEvent(run_id=run_id, progress=progress, reused_rows=run.reused_rows))
            qualities = measure_quality(ledger, run_id, plan.gold)
            status = "failed" if progress.failed else "completed"
            ledger.runs.end(run_id, status=status, now=datetime.now(UTC))
        return read_result(
            ledger,
            run_id,
            frame,
            plan.columns,
            plan.options.answer_format,
            qualities=qualities,
            canary=canary,
        )


def forget_texts(ledger_url: str, run_id: str) -> None:
    """Remove the texts of a run that the settings do not keep after its end."""
    with Ledger.open(ledger_url) as ledger:
        for of_run in (run_id, *(part.run_id for part in ledger.votes.parts(run_id))):
            ledger.retention.remove_texts(of_run, settings().not_kept(), now=datetime.now(UTC))


def _ignore(event: RunEvent) -> None:
    del event


def _new_run_id() -> str:
    """Id of a new run: its start time, and six characters that make it unique."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRun:
    """A run to work on. ``is_approved``: a person has seen its pilot and resumed it."""

    run_id: str
    reused_rows: int = 0
    is_approved: bool = False


def start_or_continue(ledger: Ledger, plan: Plan, frame: pd.DataFrame, context: RunContext) -> StartedRun:
    """The run to work on: the one to resume, that of this flow run, one after its pilot, or a new one."""
    run_id = context.resumed_run_id or context.part_run_id
    if run_id is None and context.flow_run_id is not None and plan.part is None:
        run_id = ledger.runs.find(context.flow_run_id, plan.fingerprint)
    if run_id is None and (held := _held_pilot(ledger, plan, context)) is not None:
        max_cost = plan.options.max_cost
        ledger.budgets.set(held, None if max_cost is None else usd_to_pico(max_cost))
        return replace(_continue(ledger, plan, context, held), is_approved=False)
    if run_id is None:
        return _start(ledger, plan, frame, context)
    return _continue(ledger, plan, context, run_id)


def _held_pilot(ledger: Ledger, plan: Plan, context: RunContext) -> str | None:
    """The run that the same command began, if it is on hold after its pilot; None without one.

    A new run would draw further rows for another pilot.
    """
    if plan.options.pilot is None or plan.options.refresh or context.deployment is not None:
        return None
    return ledger.runs.held_pilot(plan.fingerprint, context.command.get("output"))


def _start(ledger: Ledger, plan: Plan, frame: pd.DataFrame, context: RunContext) -> StartedRun:
    # Two processes that begin the same part write the same run.
    run_id = _new_run_id() if plan.part is None else plan.part_id
    reused_rows = _create(ledger, run_id, plan, frame, context)
    if gate := _gate_of(plan):
        ledger.gates.half_open(gate, now=datetime.now(UTC))
    return StartedRun(run_id=run_id, reused_rows=reused_rows)


def _continue(ledger: Ledger, plan: Plan, context: RunContext, run_id: str) -> StartedRun:
    run = ledger.runs.get(run_id)
    if run is None:
        raise InputError((no_run(run_id),))
    if run["status"] == PREPARING:
        fault = f"run {run_id}: it ended before its rows were written, and sent nothing; run annotate again"
        raise InputError((fault,))
    if run["input_fingerprint"] != plan.fingerprint:
        fault = (
            f"run {run_id}: the input or its settings have changed since the run began; "
            "run annotate again, which reuses the answers that still fit"
        )
        raise InputError((fault,))
    gate, now = _gate_of(plan), datetime.now(UTC)
    is_by_person = context.resumed_run_id is not None or run["status"] == "paused"
    if gate and is_by_person:
        # A person says that the cause is fixed: one row tests it.
        ledger.gates.half_open(gate, now=now)
    ledger.runs.resume(run_id, by_person_at=now if is_by_person else None)
    if (budget_pico := _new_budget_pico(plan, context)) is not None:
        ledger.budgets.set(run_id, budget_pico)
    if context.flow_run_id is not None:
        ledger.runs.add_flow_run(run_id, context.flow_run_id)
    # Prefect starts the flow run of a deployment again when a person resumes it; elsewhere it is a retry.
    is_resumed = context.resumed_run_id is not None or plan.options.on_wait == "sleep"
    is_approved = is_resumed and run["status"] == "paused" and ledger.rows.count_open(run_id) == 0
    return StartedRun(run_id=run_id, is_approved=is_approved)


def _new_budget_pico(plan: Plan, context: RunContext) -> int | None:
    """Budget that a person gave on resume, in pico-dollars; None keeps the budget of the run.

    The option of a flow run that continues is the one with which it started, so it does not count.
    """
    if context.resumed_run_id is not None and plan.options.max_cost is not None:
        return usd_to_pico(plan.options.max_cost)
    return context.new_budget_pico


def _gate_of(plan: Plan) -> str | None:
    """Gate of the rows of the plan; None for an empty plan."""
    return None if plan.catalog is None else plan.gate_id


def _create(ledger: Ledger, run_id: str, plan: Plan, frame: pd.DataFrame, context: RunContext) -> int:
    """Write a new run with its rows; returns the number of rows that reuse an answer already."""
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
            "column_prefix": options.column_prefix,
            "escalate_to": options.escalate_to,
            MODELS: list(options.models),
            "has_workspace": options.has_workspace or None,
            LIKE: like_parameters(plan),
            "max_attempts": options.max_attempts,
            "timeout": options.timeout,
            "command": dict(context.command),
        },
        model_ref=None if options.models else plan.catalog.model_ref if plan.catalog else options.model,
        backend=options.backend,
        opencode_version=plan.catalog.version if plan.catalog else None,
        deployment=context.deployment,
        flow_run_id=context.flow_run_id,
        input_fingerprint=plan.fingerprint,
        row_count=len(plan.rows),
        refresh=options.refresh,
        series=options.series,
        votes=options.votes_per_row if options.has_parts else None,
        parent_run_id=plan.part.parent_run_id if plan.part else None,
        part=plan.part.number if plan.part else None,
        max_cost_pico=None if options.max_cost is None else usd_to_pico(options.max_cost),
        now=now,
    )
    ledger.rows.add(run_id, context.stop.checked(plan.rows))
    ids = plan.checked.rows.ids(plan.checked.row_faults)
    faults = {ids[position]: ("invalid_input", fault) for position, fault in plan.checked.row_faults.items()}
    ledger.rows.fail(run_id, faults, now=now)
    ledger.gold.add(run_id, context.stop.checked(gold_values(frame, plan)))
    reused_rows = 0
    if options.pilot is not None:
        reused_rows = ledger.rows.reuse_answers(run_id, now=now)
        keys = ledger.rows.keys_to_send(run_id)
        if options.pilot < len(keys):
            # The same rows for the same rows without an answer. No secret depends on it.
            drawn = Random(plan.fingerprint).sample(keys, options.pilot)  # noqa: S311
            ledger.rows.hold_back(run_id, drawn, rows_in_run=len(plan.rows))
    ledger.runs.ready(run_id)
    return reused_rows


def _by_setting(run_id: str, estimate: Estimate | None) -> bool:
    """Whether a run continues after its pilot if nobody can be asked."""
    del run_id, estimate
    return settings().after_pilot == "continue"


@dataclass(slots=True, kw_only=True)
class _Run:
    """A run in progress."""

    plan: Plan
    ledger: Ledger
    run_id: str
    driver_id: str
    executor: Executor
    emit: OnRunEvent
    on_hold: OnHold
    on_pilot: OnPilot
    stop: Stop
    is_approved: bool = False
    reused_rows: int = 0
    has_warned: bool = False

    def run(self) -> None:
        """Send rows, and wait if they must wait, until no row is open."""
        self.has_warned = self.ledger.runs.progress(self.run_id).unreported_calls > 0
        while True:
            self._send()
            if held := self.ledger.rows.held_chars(self.run_id):
                self._end_pilot(held)
            # Another process of the run may have opened rows since.
            elif not self.ledger.rows.count_open(self.run_id):
                return

    def _send(self) -> None:
        """Send the open rows, and wait if they must wait, until none is open."""
        self.reused_rows += self.ledger.rows.reuse_answers(self.run_id, now=datetime.now(UTC))
        while open_rows := self.ledger.rows.count_open(self.run_id):
            run_spec = self._dispatch(open_rows)
            hold = hold_of(self._next_step(run_spec))
            if hold is None:
                continue
            if hold.error_type == BUDGET_REACHED and self.plan.options.on_budget == "skip":
                self._skip_rows(hold)
                return
            self._hold(hold)

    def _end_pilot(self, held_chars: Sequence[int]) -> None:
        """Estimate the rows that were held back, ask whether they may be sent, and open them."""
        concurrency = self._choose_sizes(len(held_chars)).concurrency
        estimate = estimate_rest(self.ledger, self.plan, self.run_id, held_chars, concurrency=concurrency)
        quality = {one.field: one for one in measure_quality(self.ledger, self.run_id, self.plan.gold)}
        self.emit(RunEvent(run_id=self.run_id, estimate=estimate, quality=quality))
        is_wanted = self.is_approved or self.on_pilot(self.run_id, estimate)
        if not is_wanted and self.ledger.rows.held_chars(self.run_id):
            open_rows = self.ledger.runs.progress(self.run_id).open
            message = "the rows of the pilot have ended; a person decides whether the others are sent"
            if estimate is not None and estimate.cost_usd is not None:
                ends = (estimate.cost_usd.low, estimate.cost_usd.high)
                low, high = (format_usd(usd_to_pico(end)) for end in ends)
                message += f", which cost {low} to {high}"
            self._hold(Hold(until=None, error_type=PILOT, message=message, open_rows=open_rows))
        self.ledger.rows.release(self.run_id, rows_in_run=len(self.plan.rows))

    def warn(self, progress: Progress) -> None:
        """Emit a warning if a provider reports no usage; once in a run, also if the run is resumed."""
        if self.has_warned or not progress.unreported_calls:
            return
        self.has_warned = True
        providers = self.ledger.runs.silent_providers(self.run_id)
        has_budget = self.ledger.budgets.get(self.run_id).max_cost_pico is not None
        self.emit(RunEvent(run_id=self.run_id, warning=usage_warning(providers, has_budget=has_budget)))

    def warn_of_others(self) -> None:
        """Emit a warning for each other process that works on the run now."""
        for driver in other_drivers(self.ledger, self.run_id, self.driver_id):
            text = f"another process works on this run too ({driver_text(driver)}): each row is sent by one"
            self.emit(RunEvent(run_id=self.run_id, warning=text))

    def _dispatch(self, open_rows: int) -> RunSpec:
        plan = self.plan
        sizes = self._choose_sizes(open_rows)
        if self.executor.is_remote or not BACKENDS[plan.options.backend].uses_servers:
            # Batches start opencode elsewhere: the server of this process is no longer needed.
            server_pool.call(server_pool.end_server, plan.spec)
        progress = self.ledger.runs.progress(self.run_id)
        self.emit(RunEvent(run_id=self.run_id, sizes=sizes, progress=progress, reused_rows=self.reused_rows))
        run_spec = plan.run_spec(
            self.run_id,
            self.driver_id,
            self.ledger.url,
            sizes,
            has_budget=self.ledger.budgets.get(self.run_id).max_cost_pico is not None,
        )
        emit_progress = partial(self._emit_progress, run_spec)
        inline_s = run_spec.limits.max_inline_wait_s
        if not is_longer_than(self._next_step(run_spec), inline_s, datetime.now(UTC)):
            Dispatch(
                run_spec, self.ledger, self.executor, sizes=sizes, on_progress=emit_progress, stop=self.stop
            ).run()
        return run_spec

    def _choose_sizes(self, open_rows: int) -> Sizes:
        options, capacity = self.plan.options, self.executor.capacity()
        return choose_sizes(
            rows=open_rows,
            cpus=capacity.cpus,
            shares_process=not self.executor.is_remote,
            batch_size=options.batch_size,
            concurrency=options.concurrency,
            backend=options.backend,
            model_ref=self.plan.model_ref,
            one_owner=server_pool.has_exclusive_login(self.plan.spec),
            most=capacity.prompts,
            most_processes=capacity.processes,
        )

    def _emit_progress(
        self, run_spec: RunSpec, progress: Progress, concurrency: ConcurrencyState | None
    ) -> None:
        """Emit the progress, with the hold if rows are open and none may be sent now."""
        self.warn(progress)
        is_idle = bool(progress.open) and not (concurrency and concurrency.in_flight)
        self.emit(
            RunEvent(
                run_id=self.run_id,
                progress=progress,
                pace=concurrency,
                hold=hold_of(self._next_step(run_spec)) if is_idle else None,
                reused_rows=self.reused_rows,
            )
        )

    def _next_step(self, run_spec: RunSpec) -> NextStep:
        return next_step(self.ledger.queue.state(self.run_id, run_spec.gate_id), run_spec.limits)

    def _skip_rows(self, hold: Hold) -> None:
        self.ledger.rows.skip_open(
            self.run_id, error_type=hold.error_type, error_message=hold.message, now=datetime.now(UTC)
        )

    def _hold(self, hold: Hold) -> None:
        """Record the hold in the ledger, and let the caller wait or raise."""
        self.warn(self.ledger.runs.progress(self.run_id))
        self.ledger.rows.hold_open(
            self.run_id,
            error_type=hold.error_type,
            error_message=hold.message,
            until=hold.until,
        )
        self.ledger.runs.pause(self.run_id, until=hold.until, reason=str(hold))
        self.on_hold(self.run_id, hold)
        self.ledger.runs.resume(self.run_id)
