"""Several answers to each row: votes, of which the row takes the most frequent one, and a stronger model.

The run has one row for each row of the input, and sends none itself. Its parts are runs: one for each vote,
over the rows whose majority is still open, and one of the stronger model over the rows with a low agreement
or confidence. So each answer has its own row in the ledger, is reused like any other, and all parts share
the budget of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from opencode_tasks.domain.hold import Hold
from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.engine.canaries import CanarySender
from opencode_tasks.engine.driver import driving
from opencode_tasks.engine.executor import Executor
from opencode_tasks.engine.on_hold import OnHold, raise_paused
from opencode_tasks.engine.parts import ENDED, budget_left, hold_run
from opencode_tasks.engine.quality import measure_quality
from opencode_tasks.engine.result import AnnotationResult, read_result
from opencode_tasks.engine.run import OnRunEvent, RunEvent, execute, start_or_continue
from opencode_tasks.engine.vote_counts import read_vote_quality
from opencode_tasks.engine.vote_outcomes import VotedRow, escalated_row
from opencode_tasks.ledger import DecidedRow, Ledger
from opencode_tasks.plan.canary_table import canary_name
from opencode_tasks.plan.plan import Plan, PlanPart
from opencode_tasks.plan.run_context import RunContext
from opencode_tasks.quality.votes import first_votes
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
        executor.check(ledger.url)
        run_id = start_or_continue(ledger, plan, frame, context).run_id
        # What a person has answered is decided; the other rows are decided by those of the parts.
        ledger.rows.reuse_answers(run_id, now=datetime.now(UTC), only_of_persons=True)
        ledger.rows.hold_back(run_id, [], rows_in_run=len(plan.rows))
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
        )


def _ignore(event: RunEvent) -> None:
    del event


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunInParts:
    """A run with parts, in progress."""

    plan: Plan
    frame: pd.DataFrame
    ledger: Ledger
    run_id: str
    executor: Executor
    context: RunContext
    on_event: OnRunEvent
    on_hold: OnHold

    @property
    def votes(self) -> int:
        """The number of votes that a row may have."""
        return self.plan.options.votes or 1

    def run(self) -> None:
        """Ask for votes until each majority is decided, then ask the stronger model."""
        for number in range(self.votes):
            title = f"vote {number + 1} of {self.votes}" if self.votes > 1 else "first answers"
            self._ask(self.plan, self._positions(number), part=number + 1, title=title, number=number)
            if number + 1 >= first_votes(self.votes):
                self._decide(number + 1)
        self._escalate()
        if self.ledger.votes.undecided(self.run_id):
            raise RuntimeError(f"run {self.run_id}: rows are left without an outcome")

    def _positions(self, number: int) -> list[int]:
        """The positions of the rows that need a further vote after this number of them."""
        asked = set(self.ledger.votes.asked(self.run_id, number + 1))
        if number < first_votes(self.votes):
            return [at for at in self.ledger.votes.undecided(self.run_id) if at not in asked]
        return sorted(
            row.position
            for row in self._rows(number)
            if row.position not in asked and not row.tally(number, self.votes).is_decided
        )

    def _rows(self, number: int | None = None) -> Iterator[VotedRow]:
        """The undecided rows with their votes, those up to a number; None for all."""
        count, schema = len(self.plan.rows), self.plan.options.schema
        for start in range(0, count, ROWS_PER_PART):
            span_of_rows = range(start, min(start + ROWS_PER_PART, count))
            for votes in self.ledger.votes.votes_in(self.run_id, span_of_rows).values():
                row = VotedRow.of(votes, schema)
                yield row if number is None else row.up_to(number)

    def _decide(self, number: int) -> None:
        """Write the outcome of each row whose majority is decided, unless the stronger model answers it."""
        outcomes = (self._outcome(row, number) for row in self._rows(number))
        self.ledger.votes.decide(self.run_id, (one for one in outcomes if one is not None))

    def _outcome(self, row: VotedRow, number: int) -> DecidedRow | None:
        """The outcome of a row after this number of votes; None if it needs another answer."""
        options, found = self.plan.options, row.tally(number, self.votes)
        is_low = options.escalate_to is not None and row.is_low(
            found, options.confidence, options.escalation_limit, has_votes=options.votes is not None
        )
        return row.outcome(found) if found.is_decided and not is_low else None

    def _escalate(self) -> None:
        """Have the stronger model answer the rows that are left, and decide them."""
        plan, part = self.plan.stronger, self.votes + 1
        if plan is None:
            return
        asked = set(self.ledger.votes.asked(self.run_id, part))
        positions = [at for at in self.ledger.votes.undecided(self.run_id) if at not in asked]
        self._ask(plan, positions, part=part, title=f"escalated to {self.plan.options.escalate_to}", number=0)
        self.ledger.votes.decide(self.run_id, (escalated_row(row, part, self.votes) for row in self._rows()))

    def _ask(self, plan: Plan, positions: Sequence[int], *, part: int, title: str, number: int) -> None:
        """Send rows in a part of the run: first those of a part that has not ended, then these."""
        for one in self.ledger.votes.parts(self.run_id):
            if one.part == part and one.status not in ENDED:
                rows = self.ledger.votes.positions(self.run_id, one.run_id)
                self._send(plan, rows, part=part, title=title, number=number, part_id=one.run_id)
        if positions:
            self.context.stop.check()
            self._send(plan, positions, part=part, title=title, number=number, part_id=None)

    def _send(
        self,
        plan: Plan,
        positions: Sequence[int],
        *,
        part: int,
        title: str,
        number: int,
        part_id: str | None,
    ) -> None:
        new = plan.of_part(
            PlanPart(parent_run_id=self.run_id, number=part, title=title),
            positions,
            number=number,
            max_cost=pico_to_usd(budget_left(self.ledger, self.run_id, None)),
        )
        context = replace(
            self.context,
            resumed_run_id=None,
            part_run_id=part_id,
            new_budget_pico=None if part_id is None else budget_left(self.ledger, self.run_id, part_id),
        )

        def emit(event: RunEvent) -> None:
            self.on_event(replace(event, run_id=self.run_id, part=title))

        execute(
            new,
            # Only gold values are read from it, and a part has none.
            self.frame,
            executor=self.executor,
            context=context,
            on_event=emit,
            on_hold=self._hold,
        )

    def _hold(self, part_id: str, hold: Hold) -> None:
        hold_run(self.ledger, self.run_id, part_id, hold, self.on_hold)
