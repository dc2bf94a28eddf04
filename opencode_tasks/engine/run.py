"""Run: executes a plan from its first open row to its last, and waits or pauses if it must."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import pandas as pd

from opencode_tasks.domain.advice import usage_warning
from opencode_tasks.domain.hold import Hold
from opencode_tasks.domain.next_step import NextStep, hold_of, is_longer_than, next_step
from opencode_tasks.engine.dispatcher import Dispatch
from opencode_tasks.engine.driver import driver_text, driving, other_drivers
from opencode_tasks.engine.executor import Executor
from opencode_tasks.engine.on_hold import OnHold, raise_paused
from opencode_tasks.engine.pilot import PilotEnd, by_setting, pilot_end
from opencode_tasks.engine.quality import measure_quality
from opencode_tasks.engine.reach import check_reach, files_warning
from opencode_tasks.engine.result import AnnotationResult, read_result
from opencode_tasks.engine.run_sizes import run_sizes
from opencode_tasks.engine.start_run import start_or_continue
from opencode_tasks.ledger import BUDGET_REACHED, ConcurrencyState, Ledger, Progress
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.opencode.leftovers import remove_orphaned_dirs
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.plan.plan import Plan
from opencode_tasks.plan.run_context import OnPilot, RunContext
from opencode_tasks.plan.run_spec import RunSpec
from opencode_tasks.plan.sizes import Sizes
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
        whole: Rows, tokens and cost of the whole run so far, together with the ``sizes`` of a part that takes
            answers for its rows; None for the canaries and for a run without votes.
        pace: Rows in flight and their limit; None if nothing is known about the provider's limit.
        hold: Reason why no row may be sent. Together with ``progress`` during a short wait; alone, about
            every second, during a long wait, until the run continues with ``sizes``.
        estimate: Estimate of the rows after the pilot, once the rows of the pilot have ended.
        quality: Quality of the answers of the pilot by field, at the same time; empty without gold values.
        canary: Results of the canaries of the run, once they have ended; not again if the run is resumed.
        warning: Fact that a person should know, once in a run: a provider does not report the usage,
            another process works on the run too, or is stopped with rows in flight, or the rows of the
            pilot failed or exceed the budget.
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
    whole: Progress | None = None
    pace: ConcurrencyState | None = None
    hold: Hold | None = None
    estimate: Estimate | None = None
    quality: Mapping[str, FieldQuality] = field(default_factory=dict[str, FieldQuality])
    canary: CanaryReport | None = None
    warning: str | None = None
    output_fault: str | None = None

    @classmethod
    def of_pilot(cls, run_id: str, found: PilotEnd) -> RunEvent:
        """The event at the end of a pilot."""
        return cls(run_id=run_id, estimate=found.estimate, quality=found.quality, warning=found.note)


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
        check_reach(plan, executor, ledger.url)
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
                on_pilot=context.on_pilot or by_setting,
                stop=context.stop,
                reused_rows=started.reused_rows,
                is_approved=started.is_approved,
            )
            run.warn_of_others()
            run.warn_of_rights()
            run.warn_of_files()
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
        found = pilot_end(self.ledger, self.plan, self.executor, self.run_id, held_chars)
        self.emit(RunEvent.of_pilot(self.run_id, found))
        is_wanted = self.is_approved or self.on_pilot(found.rows, found.estimate)
        if not is_wanted and self.ledger.rows.held_chars(self.run_id):
            self._hold(found.hold(self.ledger.runs.progress(self.run_id).open))
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

    def warn_of_rights(self) -> None:
        """Emit a warning if the agent is in no sandbox and nobody asked for that."""
        plan = self.plan
        changes_files = plan.catalog is not None and plan.catalog.changes_files
        if changes_files and plan.spec.sandbox is None and plan.options.sandbox is None:
            text = (
                f"the agent may change files or run commands with all rights of your user: the backend "
                f"{plan.backend} has no sandbox (leave --backend out for one)"
            )
            self.emit(RunEvent(run_id=self.run_id, warning=text))

    def warn_of_files(self) -> None:
        """Emit a warning if files of the rows stay on other machines."""
        if (text := files_warning(self.plan, self.executor)) is not None:
            self.emit(RunEvent(run_id=self.run_id, warning=text))

    def _dispatch(self, open_rows: int) -> RunSpec:
        plan = self.plan
        sizes = run_sizes(plan, self.executor, open_rows)
        if self.executor.is_remote or not BACKENDS[plan.backend].uses_servers:
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
                run_spec,
                self.ledger,
                self.executor,
                sizes=sizes,
                on_progress=emit_progress,
                on_warning=self._emit_warning,
                stop=self.stop,
            ).run()
        return run_spec

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

    def _emit_warning(self, text: str) -> None:
        self.emit(RunEvent(run_id=self.run_id, warning=text))

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
