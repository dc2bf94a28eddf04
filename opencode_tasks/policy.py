"""What happens to a row after an error: the only owner of retries.

``decide`` is a pure function of the error, how often the row was tried and the limits. It serves
``OpenCodeLLM`` and the flows alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from opencode_tasks.errors import MaxOutputTokensError, OpenCodeError, RateLimitError, ServerError

BACKOFF_START_S = 5.0
BACKOFF_MAX_S = 60.0
MAX_OUTPUT_TOKENS_ATTEMPTS = 2
# Beyond any backoff; a thousand doublings would leave a float's range.
MOST_DOUBLINGS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far retries may go; ``max_attempts`` counts the attempts of one row.

    ``max_inline_wait_s`` is the longest wait that is spent inside a batch, ``max_rate_limit_wait_s``
    the longest that one row waits for rate limits in all.
    """

    max_attempts: int = 3
    max_inline_wait_s: float = 60.0
    max_rate_limit_wait_s: float = 24 * 3600.0
    backoff_start_s: float = BACKOFF_START_S
    backoff_max_s: float = BACKOFF_MAX_S


@dataclass(frozen=True, slots=True)
class Retry:
    """Try the row again from ``at`` (aware UTC) on."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Pause:
    """Only a person can help; ``until`` is None."""

    until: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The row is not tried again."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The row is left out: it was not sent and will not be."""


Decision = Retry | Pause | Fail | Skip


@dataclass(slots=True)
class Tally:
    """How often a row was tried, as ``decide`` wants to know it. ``used`` may start above 0."""

    used: int = 0
    cut_off: int = 0

    def count(self, error: OpenCodeError) -> int:
        """The number of the attempt that ended in ``error``, for ``decide``.

        A rate limit uses up no attempt; an answer cut off counts among its like alone, so that it
        gets its second chance after other failures too.
        """
        if isinstance(error, RateLimitError):
            return max(1, self.used)
        self.used += 1
        if isinstance(error, MaxOutputTokensError):
            self.cut_off += 1
            return self.cut_off
        return self.used


def decide(error: OpenCodeError, attempt: int, now: datetime, limits: Limits) -> Decision:
    """The decision after the ``attempt``-th attempt (from 1) ended in ``error`` at ``now``."""
    if error.disposition == "fail":
        return Fail()
    if error.disposition == "pause":
        return Pause(None, str(error))
    if isinstance(error, RateLimitError):
        return Retry(max(error.reset_time, now))
    if isinstance(error, MaxOutputTokensError):
        # Once more, also where one attempt was asked for: a shorter answer is often luck.
        return Retry(now) if attempt < MAX_OUTPUT_TOKENS_ATTEMPTS else Fail()
    if attempt >= limits.max_attempts:
        return Fail()
    return Retry(now + timedelta(seconds=backoff_s(error, attempt, limits)))


def backoff_s(error: OpenCodeError, attempt: int, limits: Limits) -> float:
    """Seconds to wait after the ``attempt``-th attempt: the provider's wish, else our doubling."""
    wish = error.retry_after if isinstance(error, ServerError) else None
    own = limits.backoff_start_s * 2.0 ** min(attempt - 1, MOST_DOUBLINGS)
    return min(limits.backoff_max_s, own if wish is None else wish)
