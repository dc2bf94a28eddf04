"""The end of a pilot: whether the other rows are sent, and the hold while a person decides."""

from __future__ import annotations

from opencode_tasks.domain.hold import PILOT, Hold
from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.quality.estimate import Estimate
from opencode_tasks.settings import settings


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
