"""Several answers to each row, of which it takes the most frequent one: votes, models, and a stronger model.

The run has one row for each row of the input, and sends none itself. Its parts are runs: one for each vote,
over the rows whose majority is still open, or one for each of several models, over all rows, and one of the
stronger model over the rows with a low agreement or confidence. So each answer has its own row in the ledger,
is reused like any other, and all parts share the budget of the run.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import pandas as pd

from opencode_tasks.domain.hold import Hold
from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.engine.canaries import CanarySender
from opencode_tasks.engine.driver import driving
from opencode_tasks.engine.executor import Executor
from opencode_tasks.engine.model_quality import read_model_quality
from opencode_tasks.engine.on_hold import OnHold, raise_paused
from opencode_tasks.engine.parts import ENDED, budget_left, hold_run, record_hold
from opencode_tasks.engine.pilot import answered_rows, by_setting, pilot_end, rows_by_key
from opencode_tasks.engine.quality import measure_quality
from opencode_tasks.engine.reach import check_reach
from opencode_tasks.engine.result import AnnotationResult, read_result
from opencode_tasks.engine.run import OnRunEvent, RunEvent, execute
from opencode_tasks.engine.start_run import start_or_continue
from opencode_tasks.engine.vote_counts import read_vote_quality
from opencode_tasks.engine.vote_outcomes import VotedRow, escalated_row
from opencode_tasks.errors import RunPausedError
from opencode_tasks.ledger import BUDGET_REACHED, DecidedRow, Ledger, PilotRows
from opencode_tasks.plan.canary_table import canary_name
from opencode_tasks.plan.plan import Plan, PlanPart
from opencode_tasks.plan.run_context import RunContext
from opencode_tasks.quality.votes import Tally, first_votes
from opencode_tasks.telemetry import span

ROWS_PER_PART = 10_000


def execute_plan(
    plan: Plan,
    frame: pd.DataFrame,
    *,
    executor: Executor,
    context: RunContext | None = None,
    on_event: OnRunEvent | None = None,
    on_hold: OnHold | None = None,
) -> AnnotationResult[Any]:
    """Execute a plan over ``frame``, in parts if it wants several answers to a row; see ``execute``."""
    context = context or RunContext()
    send_canaries = None
    if plan.canaries is not None:
        send_canaries = CanarySender(
            canaries=plan.canaries,
            option=canary_name(plan.options),
            executor=executor,
            context=context,
            on_event=on_event or _ignore,
            on_hold=on_hold or raise_paused,
        )
    if not plan.options.has_parts:
        return execute(
            plan,
            frame,
            executor=executor,
            context=context,
            on_event=on_event,
            on_hold=on_hold,
            send_canaries=send_canaries,
        )
    with Ledger.open(plan.ledger_url) as ledger:
        check_reach(plan, executor, ledger.url)
        started = start_or_continue(ledger, plan, frame, context)
        run_id = started.run_id
        # The rows that a person has answered are decided; the other rows are decided by those of the parts.
        ledger.rows.reuse_answers(run_id, now=datetime.now(UTC), only_of_persons=True)
        with driving(ledger, run_id), span("opencode votes", run_id=run_id, rows=len(plan.rows)):
            run = _RunInParts(
                plan=plan,
                frame=frame,
                ledger=ledger,
                run_id=run_id,
                executor=executor,
                context=context,
                on_event=on_event or _ignore,
                on_hold=on_hold or raise_paused,
                is_approved=started.is_approved,
            )
            canary = None if send_canaries is None else send_canaries(ledger, run_id)
            run.run()
            progress = ledger.runs.progress(run_id)
            run.on_event(RunEvent(run_id=run_id, progress=progress))
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
            votes=read_vote_quality(ledger, run_id, plan.gold),
            canary=canary,
            models=read_model_quality(ledger, run_id, plan.gold),
        )


def _ignore(event: RunEvent) -> None:
    del event


@dataclass(slots=True, kw_only=True)
class _RunInParts:
    """A run with parts, in progress.

    ``scope`` are the positions of the rows that are answered now, None for all, and ``stage`` their name.
    ``is_approved``: a person has resumed the run after its pilot.
    """

    plan: Plan
    frame: pd.DataFrame
    ledger: Ledger
    run_id: str
    executor: Executor
    context: RunContext
    on_event: OnRunEvent
    on_hold: OnHold
    is_approved: bool
    scope: frozenset[int] | None = None
    stage: str = ""

    @property
    def votes(self) -> int:
        """The number of votes that a row may have."""
        return self.plan.options.votes_per_row

    def run(self) -> None:
        """Have the rows of the pilot answered, if there is one, and then the others."""
        self._hold_back()
        if self.plan.options.pilot is not None:
            self._send_pilot(self.plan.options.pilot)
        self._answer()

    def _send_pilot(self, size: int) -> None:
        """Have the rows of the pilot answered, and ask whether the others may be sent."""
        pilot = self.ledger.runs.pilot(self.run_id) or self._draw(size)
        if pilot is None or pilot.is_approved:
            return
        with self._only(pilot.positions, "pilot, "):
            # A person who resumes a run whose pilot has not ended has not seen it.
            is_approved = self.is_approved and not self._undecided()
            self._answer()
        self._end_pilot(is_approved=is_approved)

    def _draw(self, size: int) -> PilotRows | None:
        """Draw the rows of the pilot. None if no more rows than these are left to be sent.

        The answers that the ledger has are taken before: the rows that they decide cost nothing.
        """
        with self._only((), "earlier answers, "):
            if self.plan.models:
                self._take_answers_of_models()
            else:
                self._take_votes()
            self.scope = None
            self._escalate(only_known=True)
        rows = rows_by_key(self.plan, self._undecided(), self.context.stop)
        if size >= len(rows):
            return None
        # The same rows for the same rows without an answer. No secret depends on it.
        drawn = Random(self.plan.fingerprint).sample([*rows], size)  # noqa: S311
        positions = sorted(position for key in drawn for position in rows[key].positions)
        return self.ledger.runs.begin_pilot(self.run_id, positions)

    @contextmanager
    def _only(self, positions: Collection[int], stage: str) -> Generator[None]:
        """Answer the rows at these positions alone in the block."""
        self.scope, self.stage = frozenset(positions), stage
        try:
            yield
        finally:
            self.scope, self.stage = None, ""

    def _take_answers_of_models(self) -> None:
        """Decide the rows whose answers of all models are in the ledger."""
        known = self.ledger.votes.undecided(self.run_id)
        for plan in self.plan.models:
            known = answered_rows(self.ledger, plan, 0, known, self.context.stop)
        self.scope = frozenset(known)
        self._ask_models()

    def _take_votes(self) -> None:
        """Decide the rows whose votes are in the ledger, as far as they are needed."""
        first = self.ledger.votes.undecided(self.run_id)
        for number in range(self.votes):
            is_first = number < first_votes(self.votes)
            self.scope = None
            wanted = first if is_first else self._positions(number)
            known = answered_rows(self.ledger, self.plan, number, wanted, self.context.stop)
            if is_first:
                first = known
            self.scope = frozenset(known)
            self._ask_for_vote(number)

    def _end_pilot(self, *, is_approved: bool) -> None:
        """Estimate the other rows and ask whether they may be sent."""
        rows = rows_by_key(self.plan, self._undecided(), self.context.stop)
        if not rows:
            return
        chars = [of_key.chars for of_key in rows.values()]
        found = pilot_end(self.ledger, self.plan, self.executor, self.run_id, chars)
        self.on_event(RunEvent.of_pilot(self.run_id, found))
        is_wanted = is_approved or (self.context.on_pilot or by_setting)(found.rows, found.estimate)
        pilot = self.ledger.runs.pilot(self.run_id)
        # Another process of the run may have the approval meanwhile.
        if not is_wanted and not (pilot is not None and pilot.is_approved):
            hold = found.hold(self.ledger.runs.progress(self.run_id).open)
            record_hold(self.ledger, self.run_id, hold, self.on_hold)
        self.ledger.runs.approve_pilot(self.run_id)

    def _hold_back(self) -> None:
        """Keep the rows of the run from being sent by anything but its parts."""
        self.ledger.rows.hold_back(self.run_id, [], rows_in_run=len(self.plan.rows))

    def _answer(self) -> None:
        """Have the rows answered until each is decided, also those whose review a person undoes meanwhile."""
        before: tuple[Sequence[int], int] | None = None
        while True:
            self._hold_back()
            if not (undecided := self._undecided()):
                return
            state = (undecided, self.ledger.votes.counts(self.run_id).asked)
            if state == before:
                raise RuntimeError(f"run {self.run_id}: rows are left without an outcome")
            before = state
            if self.plan.models:
                self._ask_models()
            else:
                for number in range(self.votes):
                    self._ask_for_vote(number)
            self._escalate()

    def _undecided(self) -> list[int]:
        """The positions of the undecided rows that are answered now."""
        found = self.ledger.votes.undecided(self.run_id)
        return found if self.scope is None else [position for position in found if position in self.scope]

    def _ask_for_vote(self, number: int) -> None:
        """Ask for a vote on each row whose majority is open after this number of them."""
        title = f"vote {number + 1} of {self.votes}" if self.votes > 1 else "first answers"
        self._ask(self.plan, self._positions(number), part=number + 1, title=title, number=number)
        if number + 1 >= first_votes(self.votes):
            self._decide(number + 1)

    def _ask_models(self) -> None:
        """Ask each model for all rows. One that must wait does not keep the others from answering."""
        waiting = [*range(len(self.plan.models))]
        stopped: dict[int, Hold] = {}
        while waiting:
            found = {number: self._ask_model(number) for number in waiting}
            held = {number: hold for number, hold in found.items() if hold is not None}
            stopped |= {number: hold for number, hold in held.items() if hold.until is None}
            waiting = [number for number in held if number not in stopped]
            if waiting:
                now = datetime.now(UTC)
                holds = [held[number] for number in waiting]
                first = min(holds, key=lambda hold: hold.remaining_s(now) or 0.0)
                record_hold(self.ledger, self.run_id, first, self.on_hold)
            elif stopped:
                # When the others have answered, a person is needed.
                waiting = [min(stopped)]
                record_hold(self.ledger, self.run_id, stopped.pop(waiting[0]), self.on_hold)
        self._decide(self.votes)

    def _ask_model(self, number: int) -> Hold | None:
        """Ask one model for the rows that it was not asked; returns why some of them wait, None for none."""
        plan, name = self.plan.models[number], self.plan.options.models[number]
        title = f"{name} ({number + 1} of {self.votes})"
        part = number + 1
        try:
            self._ask(plan, self._unasked(part), part=part, title=title, number=0, defers=True)
        except RunPausedError as paused:
            if paused.run_id == self.run_id:
                raise
            return Hold(
                until=paused.until,
                error_type=paused.error_type,
                message=f"{name}: {paused.message}",
                open_rows=paused.open_rows,
                model_ref=plan.model_ref,
            )
        return None

    def _unasked(self, part: int) -> list[int]:
        """The positions of the undecided rows that a part with this number does not have."""
        asked = set(self.ledger.votes.asked(self.run_id, part))
        return [at for at in self._undecided() if at not in asked]

    def _positions(self, number: int) -> list[int]:
        """The positions of the rows that need a further vote after this number of them."""
        if number < first_votes(self.votes):
            return self._unasked(number + 1)
        asked = set(self.ledger.votes.asked(self.run_id, number + 1))
        return sorted(
            row.position
            for row in self._rows(number)
            if row.position not in asked and not row.tally(number, self.votes).is_decided
        )

    def _rows(self, number: int | None = None) -> Iterator[VotedRow]:
        """The undecided rows that are answered now with their votes, those up to a number; None for all."""
        count, schema = len(self.plan.rows), self.plan.options.schema
        for start in range(0, count, ROWS_PER_PART):
            span_of_rows = range(start, min(start + ROWS_PER_PART, count))
            for votes in self.ledger.votes.votes_in(self.run_id, span_of_rows).values():
                row = VotedRow.of(votes, schema)
                if self.scope is not None and row.position not in self.scope:
                    continue
                yield row if number is None else row.up_to(number)

    def _decide(self, number: int) -> None:
        """Write the outcome of each row whose majority is decided, unless the stronger model answers it."""
        outcomes = (self._outcome(row, number) for row in self._rows(number))
        self.ledger.votes.decide(self.run_id, (one for one in outcomes if one is not None))

    def _outcome(self, row: VotedRow, number: int) -> DecidedRow | None:
        """The outcome of a row after this number of votes; None if it needs another answer."""
        found = row.tally(number, self.votes)
        is_open = not self._is_decided(row, found) or self._is_for_stronger(row, found)
        return None if is_open else row.outcome(found)

    def _is_decided(self, row: VotedRow, found: Tally) -> bool:
        """Whether no further vote is asked for. Each of several models answers every row."""
        return found.is_decided and (not self.plan.models or len(row.votes) >= self.votes)

    def _is_for_stronger(self, row: VotedRow, found: Tally) -> bool:
        """Whether the stronger model answers a row with this count of its votes."""
        options = self.plan.options
        if options.escalate_to is None or row.has_person:
            return False
        return row.is_low(found, options.escalation_limits)

    def _escalate(self, *, only_known: bool = False) -> None:
        """Have the stronger model answer the rows that are left, and decide them.

        With ``only_known``, only those of which the ledger has its answer.
        """
        plan, part = self.plan.stronger, self.votes + 1
        if plan is None:
            return
        asked = set(self.ledger.votes.asked(self.run_id, part))
        tallies = ((row, row.tally(self.votes, self.votes)) for row in self._rows())
        positions = [
            row.position
            for row, found in tallies
            if row.position not in asked
            and self._is_decided(row, found)
            and self._is_for_stronger(row, found)
        ]
        if only_known:
            positions = answered_rows(self.ledger, plan, 0, positions, self.context.stop)
        title = f"escalated to {self.plan.options.escalate_to}"
        self._ask(plan, positions, part=part, title=title, number=0)
        self.ledger.votes.decide(
            self.run_id,
            (escalated_row(row, part, self.votes) for row in self._rows() if row.has_vote(part)),
        )

    def _ask(
        self,
        plan: Plan,
        positions: Sequence[int],
        *,
        part: int,
        title: str,
        number: int,
        defers: bool = False,
    ) -> None:
        """Send rows in a part of the run: first those of a part that has not ended, then these.

        With ``defers``, a hold of the part raises RunPausedError, unless the budget of the run is reached.
        """
        part_plan = PlanPart(parent_run_id=self.run_id, number=part, title=f"{self.stage}{title}")
        plan = replace(plan, part=part_plan)
        for one in self.ledger.votes.parts(self.run_id):
            if one.part == part and one.status not in ENDED:
                rows = self.ledger.votes.positions(self.run_id, one.run_id)
                self._send(plan, rows, number=number, part_id=one.run_id, defers=defers)
        if positions:
            self.context.stop.check()
            self._send(plan, positions, number=number, part_id=None, defers=defers)

    def _send(
        self, plan: Plan, positions: Sequence[int], *, number: int, part_id: str | None, defers: bool
    ) -> None:
        part = plan.part
        assert part is not None
        new = plan.of_part(
            part, positions, number=number, max_cost=pico_to_usd(budget_left(self.ledger, self.run_id, None))
        )
        context = replace(
            self.context,
            resumed_run_id=None,
            part_run_id=part_id,
            new_budget_pico=None if part_id is None else budget_left(self.ledger, self.run_id, part_id),
        )

        def emit(event: RunEvent) -> None:
            whole = None if event.sizes is None else self.ledger.runs.progress(self.run_id)
            self.on_event(replace(event, run_id=self.run_id, part=part.title, whole=whole))

        def on_hold(part_id: str, hold: Hold) -> None:
            if defers and hold.error_type != BUDGET_REACHED:
                raise_paused(part_id, hold)
            self._hold(part_id, replace(hold, model_ref=plan.model_ref))

        execute(
            new,
            # Only gold values are read from it, and a part has none.
            self.frame,
            executor=self.executor,
            context=context,
            on_event=emit,
            on_hold=on_hold,
        )

    def _hold(self, part_id: str, hold: Hold) -> None:
        hold_run(self.ledger, self.run_id, part_id, hold, self.on_hold)
