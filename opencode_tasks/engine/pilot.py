"""The rows of a pilot, whether the other rows are sent after it, and the hold while a person decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from opencode_tasks.domain.hold import PILOT, PILOT_MARK, Hold
from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.engine.estimates import estimate_rest
from opencode_tasks.engine.executor import Executor
from opencode_tasks.engine.parts import budget_left
from opencode_tasks.engine.quality import measure_quality
from opencode_tasks.engine.run_sizes import run_sizes
from opencode_tasks.ledger import Ledger
from opencode_tasks.plan.plan import Plan
from opencode_tasks.quality.estimate import MIN_ROWS, Estimate
from opencode_tasks.quality.gold import FieldQuality
from opencode_tasks.settings import settings
from opencode_tasks.system import Stop

# Messages of failed rows that are counted by their error type.
MAX_MESSAGES = 1000


class EqualRows(NamedTuple):
    """Rows with one key: their positions, and the length in characters of the texts of each."""

    positions: Sequence[int]
    chars: int


def rows_by_key(plan: Plan, positions: Collection[int], stop: Stop) -> dict[str, EqualRows]:
    """The rows of a run with parts at these positions, by key."""
    wanted, found = set(positions), dict[str, tuple[list[int], int]]()
    for row in stop.checked((plan.models[0] if plan.models else plan).rows):
        if row.position in wanted:
            chars = len(row.prompt) + len(row.system or "")
            found.setdefault(row.row_key, ([], chars))[0].append(row.position)
    return {key: EqualRows(*of_key) for key, of_key in found.items()}


def answered_rows(
    ledger: Ledger, plan: Plan, number: int, positions: Collection[int], stop: Stop
) -> list[int]:
    """Those of the rows at these positions whose answer with this number is in the ledger, by a plan."""
    wanted = set(positions)
    keys = {
        row.position: row.row_key
        for row in stop.checked(replace(plan.rows, number=number) if wanted else ())
        if row.position in wanted
    }
    answered = ledger.ended_rows.answered([*set(keys.values())], refresh=plan.options.refresh)
    return [position for position, key in keys.items() if key in answered]


def is_pilot_hold(reason: str | None) -> bool:
    """Whether a hold with this reason is that after a pilot."""
    return PILOT_MARK in (reason or "")


def by_setting(rows: int, estimate: Estimate | None) -> bool:
    """Whether a run continues after its pilot if nobody can be asked."""
    del rows, estimate
    return settings().after_pilot == "continue"


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotEnd:
    """What the ended rows of a pilot say about the other rows of the run, which are ``rows``.

    ``quality`` is that of the answers so far by field. ``note`` says what a person should know beside the
    estimate: rows that failed, why there is no estimate, and whether the budget is too low; None for nothing.
    """

    rows: int
    estimate: Estimate | None
    quality: Mapping[str, FieldQuality]
    note: str | None

    def hold(self, open_rows: int) -> Hold:
        """The hold of the run while a person decides."""
        message = "the rows of the pilot have ended; a person decides whether the others are sent"
        if self.estimate is not None and self.estimate.cost_usd is not None:
            ends = (self.estimate.cost_usd.low, self.estimate.cost_usd.high)
            low, high = (format_usd(usd_to_pico(end)) for end in ends)
            message += f", which cost {low} to {high}"
        if self.note is not None:
            message += f"; {self.note}"
        return Hold(until=None, error_type=PILOT, message=message, open_rows=open_rows)


def pilot_end(ledger: Ledger, plan: Plan, executor: Executor, run_id: str, chars: Sequence[int]) -> PilotEnd:
    """Read the end of a pilot. ``chars`` are the lengths of the texts of the other rows."""
    concurrency = run_sizes(plan, executor, len(chars)).concurrency
    estimate = estimate_rest(ledger, plan, run_id, chars, concurrency=concurrency)
    quality = {one.field: one for one in measure_quality(ledger, run_id, plan.gold)}
    parts = (_failed(ledger, run_id), _no_estimate(estimate), _budget(ledger, run_id, estimate))
    note = "; ".join(part for part in parts if part is not None)
    return PilotEnd(rows=len(chars), estimate=estimate, quality=quality, note=note or None)


def _failed(ledger: Ledger, run_id: str) -> str | None:
    failed = Counter[str]()
    for group in ledger.results.failure_messages(run_id, limit=MAX_MESSAGES):
        failed[group["error_type"]] += group["failed_rows"]
    if not failed:
        return None
    progress = ledger.runs.progress(run_id)
    types = ", ".join(f"{name} {count}" for name, count in failed.most_common())
    return f"{progress.failed} of {progress.completed + progress.failed} rows failed ({types})"


def _no_estimate(estimate: Estimate | None) -> str | None:
    if estimate is not None:
        return None
    return f"no estimate, which needs {MIN_ROWS} rows of the pilot, at least one with an answer"


def _budget(ledger: Ledger, run_id: str, estimate: Estimate | None) -> str | None:
    left = budget_left(ledger, run_id, None)
    if left is None or estimate is None or estimate.cost_usd is None:
        return None
    low, high = (usd_to_pico(end) for end in (estimate.cost_usd.low, estimate.cost_usd.high))
    if high <= left:
        return None
    verdict = "is too low" if low > left else "may be too low"
    return f"{format_usd(left)} of --max-cost is left, which {verdict} for the other rows"
