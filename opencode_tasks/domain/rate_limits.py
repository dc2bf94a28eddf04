"""Limits of requests and tokens per minute, as token buckets. Pure.

A bucket is filled at a constant rate, and each row that is sent takes from it. Its size plus the amount
that is added in a minute is the limit of a minute. The tokens of a row are known only after its end: an
estimate is taken first and corrected later, so the level can be negative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MINUTE_S = 60.0
# The size of a bucket is the amount of four seconds, because workers ask about once per second.
BUCKETS_PER_MINUTE = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Requests and tokens that the provider allows per minute, as the user states them; None without one."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def are_stated(self) -> bool:
        """Whether any limit is stated."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


def level(known: float | None, per_minute: int, *, passed_s: float) -> float:
    """Level of a bucket ``passed_s`` seconds after it had the level ``known`` (None: never used, so full)."""
    most = max(1.0, per_minute / BUCKETS_PER_MINUTE)
    if known is None:
        return most
    return min(most, known + max(0.0, passed_s) * (per_minute - most + 1.0) / MINUTE_S)


def rows_within(requests: float | None, tokens: float | None, *, row_tokens: float) -> int | None:
    """Number of rows of ``row_tokens`` each that may be sent; None for any number.

    ``requests`` and ``tokens`` are levels of buckets; None means no limit. A row that needs more tokens
    than the bucket can hold is sent as soon as the level is positive, and the level becomes negative.
    """
    counts: list[int] = []
    if requests is not None:
        counts.append(max(0, math.floor(requests)))
    if tokens is not None:
        counts.append(max(0, math.ceil(tokens / max(1.0, row_tokens))))
    return min(counts, default=None)
