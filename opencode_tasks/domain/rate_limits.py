"""Requests and tokens per minute: how many rows may be sent now, so that no minute holds too many.

A bucket fills steadily and is emptied by what is sent; its size and its flow together are what a
minute may hold. Tokens are known only afterwards: it is emptied by an estimate and corrected, and may
be owed more than it holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MINUTE_S = 60.0
# A bucket holds four seconds' worth: enough for workers that come for theirs once a second.
BUCKETS_PER_MINUTE = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """What the user says that the provider allows in a minute; None where it is not said."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def are_stated(self) -> bool:
        """Whether there is anything to hold."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


def level(known: float | None, per_minute: int, *, passed_s: float) -> float:
    """What a bucket holds that held ``known`` so many seconds ago; None: it was never used, and is full."""
    most = max(1.0, per_minute / BUCKETS_PER_MINUTE)
    if known is None:
        return most
    return min(most, known + max(0.0, passed_s) * (per_minute - most + 1.0) / MINUTE_S)


def rows_within(requests: float | None, tokens: float | None, *, row_tokens: float) -> int | None:
    """How many rows of so many tokens may be sent; None for any number. A level of None is no limit.

    A row that needs more tokens than there ever are at once is sent all the same, and waited off.
    """
    counts: list[int] = []
    if requests is not None:
        counts.append(max(0, math.floor(requests)))
    if tokens is not None:
        counts.append(max(0, math.ceil(tokens / max(1.0, row_tokens))))
    return min(counts, default=None)
