"""What happens to a row after an error: the only owner of retries.

``decide`` is a pure function of the error, how often the row was tried and the limits. It serves
``OpenCodeLLM`` and the flows alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from opencode_tasks.errors import (
    AuthenticationError,
    BillingError,
    BudgetExceededError,
    ContentFilteredError,
    InvalidRequestError,
    MaxOutputTokensError,
    OpenCodeError,
    OpenCodeTimeoutError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SetupError,
    StructuredOutputError,
    UnknownOpenCodeError,
)

BACKOFF_START_S = 5.0
BACKOFF_MAX_S = 60.0
# A limit whose end the provider did not name: the first wait, doubled with each further one.
LIMIT_BACKOFF_START_S = 2.0
# A provider that says "now" and goes on refusing must not be asked without end.
LIMIT_FLOOR_S = 1.0
MAX_OUTPUT_TOKENS_ATTEMPTS = 2
# Beyond any backoff; a thousand doublings would leave a float's range.
MAX_DOUBLINGS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLimits:
    """How far retries may go; ``max_attempts`` counts the attempts of one row.

    ``max_inline_wait_s`` is the longest wait that is spent inside a batch, ``max_rate_limit_wait_s``
    the longest that one row waits for rate limits in all. ``breaker_failures`` is how many attempts
    in a row may fail with server errors or time-outs before the provider gets a rest.
    """

    max_attempts: int = 3
    max_inline_wait_s: float = 60.0
    max_rate_limit_wait_s: float = 24 * 3600.0
    breaker_failures: int = 10
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
class AttemptCounts:
    """How often a row was tried, as ``decide`` wants to know it. ``used`` may start above 0."""

    used: int = 0
    cut_off: int = 0
    limited: int = 0

    def count(self, error: OpenCodeError) -> int:
        """The number of the attempt that ended in ``error``, for ``decide``.

        A rate limit uses up no attempt and counts among its like; so does an answer cut off, so that
        it gets its second chance after other failures too. What a person must mend uses up none.
        """
        if isinstance(error, RateLimitError):
            self.limited += 1
            return self.limited
        if isinstance(error, AuthenticationError | BillingError):
            return max(1, self.used)
        self.used += 1
        if isinstance(error, MaxOutputTokensError):
            self.cut_off += 1
            return self.cut_off
        return self.used


def decide(error: OpenCodeError, attempt: int, now: datetime, limits: RetryLimits) -> Decision:
    """The decision after the ``attempt``-th attempt (from 1) ended in ``error`` at ``now``.

    Of a rate limit ``attempt`` counts the limits, of an answer cut off the cuts (see ``AttemptCounts``).
    """
    match error:
        case AuthenticationError() | BillingError():
            return Pause(None, str(error))
        case (
            InvalidRequestError()
            | BudgetExceededError()
            | ContentFilteredError()
            | PermissionDeniedError()
            | StructuredOutputError()
            | SetupError()
        ):
            return Fail()
        case RateLimitError():
            return Retry(limit_end(error, attempt, now))
        case MaxOutputTokensError():
            # Once more, also where one attempt was asked for: a shorter answer is often luck.
            return Retry(now) if attempt < MAX_OUTPUT_TOKENS_ATTEMPTS else Fail()
        case ServerError() | OpenCodeTimeoutError() | UnknownOpenCodeError() | _:
            if attempt >= limits.max_attempts:
                return Fail()
            return Retry(now + timedelta(seconds=backoff_s(error, attempt, limits)))


def limit_end(error: RateLimitError, count: int, now: datetime) -> datetime:
    """When the ``count``-th limit is over: the provider's moment, else our doubling.

    A moment that is named and has come already is doubled away from too: the provider went on refusing.
    """
    if error.reset_is_named and (error.reset_time - now).total_seconds() >= LIMIT_FLOOR_S:
        return error.reset_time
    start = LIMIT_FLOOR_S if error.reset_is_named else LIMIT_BACKOFF_START_S
    return now + timedelta(seconds=min(BACKOFF_MAX_S, start * 2.0 ** min(count - 1, MAX_DOUBLINGS)))


def backoff_s(error: OpenCodeError, attempt: int, limits: RetryLimits) -> float:
    """Seconds to wait after the ``attempt``-th attempt: the provider's wish, else our doubling."""
    wish = error.retry_after if isinstance(error, ServerError) else None
    return min(limits.backoff_max_s, doubled_s(attempt, limits) if wish is None else wish)


def doubled_s(count: int, limits: RetryLimits) -> float:
    """Our own backoff after the ``count``-th failure in a row."""
    return min(limits.backoff_max_s, limits.backoff_start_s * 2.0 ** min(count - 1, MAX_DOUBLINGS))
