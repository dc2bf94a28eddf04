"""The retry policy: the decision about a row after an error.

``decide`` is a pure function of the error, the row's attempts and the limits. ``OpenCodeLLM`` and the
flows both use it, and nothing else decides about retries. For the rows of a run, ``decide_row`` also knows
whether the provider answers other rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from opencode_tasks.domain.outage import Cause
from opencode_tasks.errors import OpenCodeError

BACKOFF_START_S = 5.0
BACKOFF_MAX_S = 60.0
# First wait for a rate limit whose end the provider did not name; each further one is twice as long.
RATE_LIMIT_BACKOFF_START_S = 2.0
# Shortest wait for a rate limit: some providers say "now" and refuse again.
RATE_LIMIT_MIN_WAIT_S = 1.0
# Beyond any backoff; a thousand doublings exceed the range of a float.
MAX_DOUBLINGS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLimits:
    """The limits of retries.

    Attributes:
        max_attempts: Number of attempts at one row.
        max_inline_wait_s: Longest wait of a row inside its batch, in seconds.
        max_rate_limit_wait_s: Longest time for which a run makes no progress because of rate limits, in
            seconds. A limit that ends later puts the run on hold until a person resumes it.
        breaker_failures: Number of server errors and timeouts in a row after which the gate closes.
        outage_s: Least time from a row's first failure to its last attempt, in seconds, if the provider is
            unavailable for this row alone.
        max_outage_wait_s: Longest time for which a run makes no progress because the provider is
            unavailable, in seconds. A longer outage puts the run on hold until a person resumes it.
        backoff_start_s: First wait after an error, in seconds.
        backoff_max_s: Longest wait after an error whose end the provider does not name, in seconds.

    Examples:
        Two attempts, and a first wait of one second:

        >>> from opencode_tasks import OpenCodeLLM, RetryLimits
        >>> llm = OpenCodeLLM(limits=RetryLimits(max_attempts=2, backoff_start_s=1.0))
        >>> llm.limits.max_attempts
        2
    """

    max_attempts: int = 3
    max_inline_wait_s: float = 60.0
    max_rate_limit_wait_s: float = 24 * 3600.0
    breaker_failures: int = 10
    outage_s: float = 0.0
    max_outage_wait_s: float = 600.0
    backoff_start_s: float = BACKOFF_START_S
    backoff_max_s: float = BACKOFF_MAX_S


@dataclass(frozen=True, slots=True)
class Retry:
    """Send the row again at ``at`` (aware UTC) or later."""

    at: datetime


@dataclass(frozen=True, slots=True)
class AwaitPerson:
    """Leave the row open until a person acts."""


@dataclass(frozen=True, slots=True)
class Fail:
    """End the row with this error."""


Decision = Retry | AwaitPerson | Fail


@dataclass(slots=True)
class AttemptCounts:
    """The attempts of a row, as ``decide`` counts them.

    Attributes:
        used: Attempts that count towards the limit, cut-off answers included.
        cut_off: Answers that were cut off at a token limit.
        limited: Rate limits.
        outages: Attempts that met an outage of the provider.
    """

    used: int = 0
    cut_off: int = 0
    limited: int = 0
    outages: int = 0

    def count(self, error: OpenCodeError) -> int:
        """Count an attempt that ended in ``error``; return its number (from 1) for ``decide``."""
        reaction = error.reaction
        self.used += reaction.uses_attempt
        match reaction.counter:
            case "attempts":
                return max(1, self.used)
            case "cut_off_answers":
                self.cut_off += 1
                return self.cut_off
            case "rate_limits":
                self.limited += 1
                return self.limited
            case _:
                assert_never(reaction.counter)


def decide(error: OpenCodeError, attempt: int, now: datetime, limits: RetryLimits) -> Decision:
    """Return what happens to a row after an attempt ended in ``error``.

    Args:
        error: The error of the attempt.
        attempt: Number of the attempt (from 1) by the counter of the error's reaction, as
            ``AttemptCounts.count`` returns it.
        now: Time of the end of the attempt (aware UTC).
        limits: Number of attempts and length of waits.
    """
    reaction = error.reaction
    match reaction.action:
        case "fail":
            return Fail()
        case "hold":
            return AwaitPerson()
        case "retry":
            max_attempts = reaction.max_attempts or limits.max_attempts
            if error.max_attempts is not None:
                max_attempts = min(max_attempts, error.max_attempts)
            if reaction.uses_attempt and attempt >= max_attempts:
                return Fail()
            return Retry(_retry_time(error, attempt, now, limits))
        case _:
            assert_never(reaction.action)


def decide_row(
    error: OpenCodeError,
    cause: Cause,
    counts: AttemptCounts,
    first_failure: datetime | None,
    now: datetime,
    limits: RetryLimits,
) -> Decision:
    """Return what happens to a row of a run after an attempt ended in ``error``, and count the attempt.

    Only the row's own failures make it final: see ``domain.outage`` for the ``cause``. ``first_failure`` is
    the time of the row's first failure (aware UTC); None if this is the first one.
    """
    if cause == "provider":
        counts.outages += 1
        return Retry(now + timedelta(seconds=outage_wait_s(error, counts.outages, limits)))
    decision = decide(error, counts.count(error), now, limits)
    if isinstance(decision, Fail) and cause == "unclear":
        return Retry(now + timedelta(seconds=backoff_s(error, counts.used, limits)))
    if isinstance(decision, Retry) and cause == "row" and error.reaction.wait == "backoff":
        return Retry(after_outage(decision.at, error, counts, first_failure or now, limits))
    return decision


def outage_wait_s(error: OpenCodeError, count: int, limits: RetryLimits) -> float:
    """Return the seconds to wait after the ``count``-th failure in an outage: more each time.

    The provider's wish is the minimum: some providers ask for the same short time again and again.
    """
    return max(error.retry_after or 0.0, doubled_s(count, limits))


def _retry_time(error: OpenCodeError, attempt: int, now: datetime, limits: RetryLimits) -> datetime:
    match error.reaction.wait:
        case "none":
            return now
        case "backoff":
            return now + timedelta(seconds=backoff_s(error, attempt, limits))
        case "until_reset":
            return limit_end(error, attempt, now)
        case _:
            assert_never(error.reaction.wait)


def after_outage(
    at: datetime, error: OpenCodeError, counts: AttemptCounts, first_failure: datetime, limits: RetryLimits
) -> datetime:
    """Return the time of the next attempt at a row: the last one is not made before ``outage_s`` has passed.

    This concerns a row that meets an unavailable provider while other rows are answered. ``at`` is the
    time of the attempt without this rule, and ``first_failure`` that of the row's first failure (both
    aware UTC).
    """
    if not error.is_unavailable or counts.used + 1 < limits.max_attempts:
        return at
    return max(at, first_failure + timedelta(seconds=limits.outage_s))


def limit_end(error: OpenCodeError, count: int, now: datetime) -> datetime:
    """Return the end of the ``count``-th rate limit of a row or gate (aware UTC).

    That is the time that the provider named. If it named none, or one that has passed, the wait is ours
    and doubles with each limit.
    """
    named = error.named_reset_time
    if named is not None and (named - now).total_seconds() >= RATE_LIMIT_MIN_WAIT_S:
        return named
    start = RATE_LIMIT_BACKOFF_START_S if named is None else RATE_LIMIT_MIN_WAIT_S
    return now + timedelta(seconds=min(BACKOFF_MAX_S, _doubled(start, count)))


def rest_s(error: OpenCodeError, now: datetime) -> float:
    """Return the seconds for which the provider accepts no request after a refusal."""
    if error.reaction.wait != "until_reset":
        return error.retry_after or 0.0
    if error.named_reset_time is None:
        return RATE_LIMIT_BACKOFF_START_S
    return max(0.0, (error.named_reset_time - now).total_seconds())


def backoff_s(error: OpenCodeError, attempt: int, limits: RetryLimits) -> float:
    """Return the seconds to wait after the ``attempt``-th attempt: the provider's wish, else our backoff."""
    return doubled_s(attempt, limits) if error.retry_after is None else error.retry_after


def doubled_s(count: int, limits: RetryLimits) -> float:
    """Return our own backoff in seconds after the ``count``-th failure in a row."""
    return min(limits.backoff_max_s, _doubled(limits.backoff_start_s, count))


def _doubled(start_s: float, count: int) -> float:
    return start_s * 2.0 ** min(count - 1, MAX_DOUBLINGS)
