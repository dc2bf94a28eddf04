"""Votes: several answers to each row, of which the row takes the one that most of them give.

The run has one row for each row of the input, and sends none itself. Its parts are runs: the first ones over
all rows, the later ones over the rows whose majority is still open. So each answer has its own row in the
ledger, is reused like any other, and all parts share the budget of the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

import pandas as pd

from opencode_tasks.domain.hold import Hold
from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.engine.driver import driving
from opencode_tasks.engine.executor import Executor
from opencode_tasks.engine.on_hold import OnHold, raise_paused
from opencode_tasks.engine.quality import has_answer, measure_quality
from opencode_tasks.engine.result import AnnotationResult, read_result
from opencode_tasks.engine.run import OnRunEvent, RunEvent, execute, start_or_continue
from opencode_tasks.engine.vote_counts import read_vote_quality
from opencode_tasks.ledger import BUDGET_REACHED, Budget, DecidedRow, Ledger, budget_message
from opencode_tasks.ledger.votes import CHOSEN_COLUMNS
from opencode_tasks.plan.plan import Plan, PlanPart
from opencode_tasks.plan.run_context import RunContext
from opencode_tasks.quality.votes import VotedField, first_votes, kept_answer, tally, voted_fields
from opencode_tasks.telemetry import span

ROWS_PER_PART = 10_000
_COST_SOURCES = ("unpriced", "computed", "reported")


def execute_plan(
    plan: Plan,
    frame: pd.DataFrame,
    *,
    executor: Executor,
    context: RunContext | None = None,
    on_event: OnRunEvent | None = None,
    on_hold: OnHold | None = None,
) -> AnnotationResult[Any]:
    """Execute a plan over ``frame``, with votes if its options want them; see ``execute``."""
    context = context or RunContext()
    if plan.options.votes is None:
        return execute(plan, frame, executor=executor, context=context, on_event=on_event, on_hold=on_hold)
    with Ledger.open(plan.ledger_url) as ledger:
        executor.check(ledger.url)
        run_id = start_or_continue(ledger, plan, frame, context).run_id
        # What a person has answered is decided; the other rows are decided by those of the parts.
        ledger.rows.reuse_answers(run_id, now=datetime.now(UTC), only_of_persons=True)
        ledger.rows.hold_back(run_id, [], rows_in_run=len(plan.rows))
        with driving(ledger, run_id), span("opencode votes", run_id=run_id, rows=len(plan.rows)):
            run = _VotedRun(
                plan=plan,
                frame=frame,
                ledger=ledger,
                run_id=run_id,
                executor=executor,
                context=context,
                on_event=on_event or _ignore,
                on_hold=on_hold or raise_paused,
            )
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
            votes=read_vote_quality(ledger, run_id),
        )


def _ignore(event: RunEvent) -> None:
    del event


@dataclass(frozen=True, slots=True, kw_only=True)
class _VotedRun:
    """A run with votes in progress."""

    plan: Plan
    frame: pd.DataFrame
    ledger: Ledger
    run_id: str
    executor: Executor
    context: RunContext
    on_event: OnRunEvent
    on_hold: OnHold

    def run(self) -> None:
        """Ask for votes until each row is decided."""
        wanted = self.plan.options.votes or 0
        for number in range(wanted):
            positions = self.ledger.votes.undecided(self.run_id)
            if not positions:
                return
            self._ask(number, positions)
            asked = number + 1
            if asked >= first_votes(wanted):
                self._decide(is_last=asked == wanted)

    def _ask(self, number: int, positions: Sequence[int]) -> None:
        """Send these rows once more, in a part of the run; a part that has ended is not repeated."""
        part = PlanPart(
            parent_run_id=self.run_id,
            number=number + 1,
            title=f"vote {number + 1} of {self.plan.options.votes}",
        )
        plan = self.plan.of_part(
            part, positions, number=number, max_cost=pico_to_usd(self._budget_left(None))
        )
        found = next(
            (one for one in self.ledger.votes.parts(self.run_id) if one.fingerprint == plan.fingerprint), None
        )
        if found is not None and found.status in ("completed", "failed"):
            return
        part_id = None if found is None else found.run_id
        context = replace(
            self.context,
            resumed_run_id=None,
            part_run_id=part_id,
            new_budget_pico=None if part_id is None else self._budget_left(part_id),
        )

        def emit(event: RunEvent) -> None:
            self.on_event(replace(event, run_id=self.run_id, part=part.title))

        execute(
            plan,
            cast("pd.DataFrame", self.frame.iloc[list(positions)]),
            executor=self.executor,
            context=context,
            on_event=emit,
            on_hold=self._hold,
        )

    def _budget_left(self, part_id: str | None) -> int | None:
        """What a part may cost in all, in pico-dollars; None without a budget. A new part has no id yet."""
        budget = self.ledger.budgets.get(self.run_id)
        if budget.max_cost_pico is None:
            return None
        own = None if part_id is None else self.ledger.budgets.get(part_id)
        of_others = budget.spent_pico + budget.reserved_pico
        if own is not None:
            of_others -= own.spent_pico + own.reserved_pico
        return max(0, budget.max_cost_pico - of_others)

    def _hold(self, part_id: str, hold: Hold) -> None:
        """Hold the run as its part is held, with the budget of the whole run in the message."""
        if hold.error_type == BUDGET_REACHED:
            refused = self.ledger.budgets.get(part_id).refused_pico
            budget = self.ledger.budgets.get(self.run_id)
            whole = Budget(
                max_cost_pico=budget.max_cost_pico,
                spent_pico=budget.spent_pico,
                reserved_pico=budget.reserved_pico,
                refused_pico=refused,
            )
            hold = replace(hold, message=budget_message(whole))
        self.ledger.runs.pause(self.run_id, until=hold.until, reason=str(hold))
        self.on_hold(self.run_id, hold)
        self.ledger.runs.resume(self.run_id)

    def _decide(self, *, is_last: bool) -> None:
        """Write the outcome of each row whose majority is decided; of all rows after the last vote."""
        fields = voted_fields(self.plan.options.schema)
        count = len(self.plan.rows)
        for start in range(0, count, ROWS_PER_PART):
            found = self.ledger.votes.votes_in(self.run_id, range(start, min(start + ROWS_PER_PART, count)))
            decided = [
                row
                for row_id, votes in found.items()
                if (row := self._decided(row_id, votes, fields, is_last=is_last)) is not None
            ]
            self.ledger.votes.decide(self.run_id, decided)

    def _decided(
        self, row_id: str, votes: Sequence[Mapping[str, Any]], fields: Sequence[VotedField], *, is_last: bool
    ) -> DecidedRow | None:
        """The outcome of a row; None while further votes can change it."""
        has_schema = self.plan.options.schema is not None
        answers = [vote["structured"] if has_schema else vote["response"] for vote in votes]
        valid = [has_answer(vote["status"], vote["response"]) for vote in votes]
        wanted = len(votes) if is_last else self.plan.options.votes or 0
        result = tally(answers, valid, fields, wanted)
        if not (result.is_decided or is_last):
            return None
        chosen = votes[result.chosen if result.chosen is not None else 0]
        shown = [
            kept_answer(answer, fields) if ok else None for answer, ok in zip(answers, valid, strict=True)
        ]
        return DecidedRow(
            row_id=row_id,
            values={
                **{name: chosen[name] for name in CHOSEN_COLUMNS},
                **_added(votes),
                "source_run_id": chosen["run_id"],
                "source_row_id": row_id,
                "agreement": result.agreement,
                "votes": json.dumps(shown, ensure_ascii=False),
                "needs_review": result.is_tie,
            },
        )


def _added(votes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The columns of a row that add up those of its votes."""
    now = datetime.now(UTC)
    started = min((vote["started_at"] for vote in votes if vote["started_at"] is not None), default=None)
    sources = {vote["cost_source"] for vote in votes}
    return {
        **{name: _sum([vote[name] for vote in votes]) for name in (*TOKEN_COLUMNS, "cost_pico")},
        "cost_source": next((one for one in _COST_SOURCES if one in sources), None),
        "attempts": sum(vote["attempts"] for vote in votes),
        "reused": all(vote["reused"] for vote in votes),
        "waits_until": None,
        "started_at": started,
        "completed_at": now,
        "duration_s": 0.0 if started is None else (now - started).total_seconds(),
    }


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
