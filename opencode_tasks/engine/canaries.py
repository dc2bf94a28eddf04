"""Canaries of a run: sent before its rows, and compared with those of earlier runs.

They are a part of the run: a run of its own, with its own rows, in the budget of the run. No other run has
the keys of these rows, so that none is reused, and a resumed run does not send them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from opencode_tasks.domain.hold import Hold
from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.engine.executor import Executor
from opencode_tasks.engine.on_hold import OnHold
from opencode_tasks.engine.parts import ENDED, budget_left, hold_run
from opencode_tasks.engine.quality import measure_quality
from opencode_tasks.engine.run import CANARIES, OnRunEvent, RunEvent, execute
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import Ledger, MeasuredRun, Measurement
from opencode_tasks.ledger.canaries import CanaryPart
from opencode_tasks.ledger.schema import CANARY_PART
from opencode_tasks.plan.plan import Canaries, Plan, PlanPart
from opencode_tasks.plan.run_context import RunContext
from opencode_tasks.quality.drift import (
    CanaryReport,
    CanaryRow,
    CanaryRun,
    judge,
    report_in,
    report_json,
    usual_runs,
)
from opencode_tasks.quality.gold import normalized


@dataclass(frozen=True, slots=True, kw_only=True)
class CanarySender:
    """Sends the canaries of a run and measures them, once in the run."""

    canaries: Canaries
    option: str
    executor: Executor
    context: RunContext
    on_event: OnRunEvent
    on_hold: OnHold

    def __call__(self, ledger: Ledger, run_id: str) -> CanaryReport:
        """Return what the canaries of the run show; those that were sent already are not sent again.

        Raises InputError if the table has changed since the run began.
        """
        part = ledger.canaries.part(run_id)
        if part is not None and part.report is not None:
            return report_in(part.report)
        plan = self._plan(ledger, run_id, part)
        part_id = plan.part_id if part is None else part.run_id
        if part is None or part.status not in ENDED:
            self._send(ledger, run_id, plan, part_id=None if part is None else part_id)
        else:
            # The process ended between the last canary and its measures.
            measure_quality(ledger, part_id, plan.gold)
        report, is_new = measure_canaries(ledger, run_id, part_id, self.canaries.series)
        if is_new:
            self.on_event(RunEvent(run_id=run_id, canary=report))
        return report

    def _plan(self, ledger: Ledger, run_id: str, part: CanaryPart | None) -> Plan:
        left = budget_left(ledger, run_id, None if part is None else part.run_id)
        of_run = PlanPart(parent_run_id=run_id, number=CANARY_PART, title=CANARIES)
        plan = self.canaries.plan.of_canaries(of_run, max_cost=pico_to_usd(left))
        found = None if part is None else ledger.row_list.run(part.run_id)
        if found is not None and found["input_fingerprint"] != plan.fingerprint:
            fault = f"its rows or the settings have changed since run {run_id} began; restore it, then resume"
            raise InputError((f"{self.option}: {fault}",))
        return plan

    def _send(self, ledger: Ledger, run_id: str, plan: Plan, *, part_id: str | None) -> None:
        context = replace(
            self.context,
            resumed_run_id=None,
            part_run_id=part_id,
            new_budget_pico=None if part_id is None else budget_left(ledger, run_id, part_id),
        )

        def emit(event: RunEvent) -> None:
            self.on_event(replace(event, run_id=run_id, part=CANARIES))

        def hold(of_part: str, found: Hold) -> None:
            open_rows = ledger.runs.progress(run_id).open or found.open_rows
            hold_run(ledger, run_id, of_part, replace(found, open_rows=open_rows), self.on_hold)

        result = execute(
            plan,
            self.canaries.frame,
            executor=self.executor,
            context=context,
            on_event=emit,
            on_hold=hold,
        )
        # A canary that the budget left out does not hold the rows of the run, which may cost less.
        ledger.budgets.set(result.run_id, result.budget.max_cost_pico)


def measure_canaries(ledger: Ledger, run_id: str, part_id: str, series: str) -> tuple[CanaryReport, bool]:
    """Compare the canaries of a part with earlier runs, and write the result.

    Returns the report, and whether this call wrote it: another process of the run may have done that.
    """
    measured = ledger.canaries.measured_runs(series, but=part_id)
    new = MeasuredRun(run_id=run_id, part_id=part_id, changed_rows=0, compared_rows=0, has_drift=False)
    *earlier, current = _canary_runs(ledger, [*measured, new])
    usual, _ = usual_runs(earlier)
    compared = _compared(ledger, part_id, usual[-1].part_id) if usual else (0, 0)
    report = judge(replace(current, changed=compared), earlier)
    is_new = ledger.canaries.record(
        part_id,
        Measurement(
            series=series,
            changed_rows=compared[0],
            compared_rows=compared[1],
            has_drift=report.has_drift,
            report=report_json(report),
        ),
        now=datetime.now(UTC),
    )
    return report, is_new


def _canary_runs(ledger: Ledger, measured: Sequence[MeasuredRun]) -> list[CanaryRun]:
    ids = [one.part_id for one in measured]
    rows, correct = ledger.canaries.rows(ids), ledger.canaries.correct(ids)
    return [
        CanaryRun(
            run_id=one.run_id,
            part_id=one.part_id,
            rows=[_canary_row(row) for row in rows[one.part_id]],
            correct=correct[one.part_id],
            changed=(one.changed_rows, one.compared_rows),
            has_drift=one.has_drift,
        )
        for one in measured
    ]


def _canary_row(row: Mapping[str, Any]) -> CanaryRow:
    return CanaryRow(
        position=row["position"],
        is_completed=row["status"] == "completed",
        input_tokens=_sum(row["input_tokens"], row["cache_read_tokens"], row["cache_write_tokens"]),
        output_tokens=_sum(row["output_tokens"], row["reasoning_tokens"]),
        cost_pico=row["cost_pico"],
    )


def _sum(*parts: int | None) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _compared(ledger: Ledger, part_id: str, before: str) -> tuple[int, int]:
    """How many answers differ from those of an earlier part, and how many could be compared."""
    now, then = ledger.canaries.answers(part_id), ledger.canaries.answers(before)
    both = now.keys() & then.keys()
    return sum(_comparable(*now[at]) != _comparable(*then[at]) for at in both), len(both)


def _comparable(response: str, structured: Any) -> str:
    """An answer as it is compared: a text without case and marks at its ends, or a JSON value."""
    if structured is None:
        return normalized(response)
    return json.dumps(structured, sort_keys=True, ensure_ascii=False)
