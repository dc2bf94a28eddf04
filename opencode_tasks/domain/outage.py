"""Outages: whether a failed attempt is the fault of its row or of a provider that answers no row.

A prompt can crash the server of a model, and then fails each time that it is sent. During an outage every
row fails. The difference is in the other rows of the gate: ``cause_of`` compares a failure with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from opencode_tasks.errors import OpenCodeError

# A provider that gave an answer at most this long before a row's first failure counts as answering.
RECENT = timedelta(seconds=60)

Cause = Literal["row", "provider", "unclear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureSeries:
    """The failures of an unavailable provider at a gate since its last answer.

    Attributes:
        since: Time of the first of these failures (aware UTC); None without one.
        is_shared: Whether more than one row failed in this way.
        answered_at: Time of the last answer to another row of the run (aware UTC); None without one.
    """

    since: datetime | None = None
    is_shared: bool = False
    answered_at: datetime | None = None


def cause_of(error: OpenCodeError, series: FailureSeries, first_failure: datetime | None) -> Cause:
    """Return the cause of a failure, which is the last one of ``series``.

    ``row``: the provider answers other rows. The attempt counts, and the row may fail. ``provider``:
    no row is answered. The attempt does not count, and the row is not final. ``unclear``: it is the first
    failure, and no other row has failed. The attempt counts, and the row is not final.

    ``first_failure`` is the time of the row's first failure (aware UTC); None if this is the first one.
    """
    if not error.is_unavailable:
        return "row"
    if series.is_shared:
        return "provider"
    if first_failure is None:
        return "unclear"
    answered_at = series.answered_at
    return "row" if answered_at is not None and answered_at > first_failure - RECENT else "provider"
