"""The rows of a pilot, whether the other rows are sent after it, and the hold while a person decides."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from opencode_tasks.domain.hold import PILOT, PILOT_MARK, Hold
from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.ledger import Ledger
from opencode_tasks.plan.plan import Plan
from opencode_tasks.quality.estimate import Estimate
from opencode_tasks.settings import settings
from opencode_tasks.system import Stop


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


def by_setting(run_id: str, estimate: Estimate | None) -> bool:
    """Whether a run continues after its pilot if nobody can be asked."""
    del run_id, estimate
    return settings().after_pilot == "continue"


def pilot_hold(estimate: Estimate | None, open_rows: int) -> Hold:
    """The hold of a run whose other rows wait for a person, with what they are expected to cost."""
    message = "the rows of the pilot have ended; a person decides whether the others are sent"
    if estimate is not None and estimate.cost_usd is not None:
        ends = (estimate.cost_usd.low, estimate.cost_usd.high)
        low, high = (format_usd(usd_to_pico(end)) for end in ends)
        message += f", which cost {low} to {high}"
    return Hold(until=None, error_type=PILOT, message=message, open_rows=open_rows)
