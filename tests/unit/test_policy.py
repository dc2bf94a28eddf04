"""``decide``: the decision follows the reaction of the error, and waits have bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from error_examples import example
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks import errors
from opencode_tasks.domain.outage import Cause, FailureSeries, cause_of
from opencode_tasks.domain.policy import (
    AttemptCounts,
    AwaitPerson,
    Decision,
    Fail,
    Retry,
    RetryLimits,
    backoff_s,
    decide,
    decide_row,
    rest_s,
)
from opencode_tasks.errors import OpenCodeError, row_error_classes

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
LIMITS = RetryLimits()


def after(seconds: float) -> Retry:
    return Retry(NOW + timedelta(seconds=seconds))


# The decision after the first attempt, and after the last one.
DECISIONS: list[tuple[OpenCodeError, Decision, Decision]] = [
    (OpenCodeError("n", "odd"), after(5), Fail()),
    (errors.RateLimitError("n", NOW + timedelta(hours=2)), after(7200), after(7200)),
    (errors.AuthenticationError("n"), AwaitPerson(), AwaitPerson()),
    (errors.BillingError("n"), AwaitPerson(), AwaitPerson()),
    (errors.InvalidRequestError("n"), Fail(), Fail()),
    (errors.ServerError("n"), after(5), Fail()),
    (errors.MaxOutputTokensError("n"), after(0), Fail()),
    (errors.UnknownOpenCodeError("n"), after(5), Fail()),
    (errors.OpenCodeTimeoutError("n"), after(5), Fail()),
    (errors.StructuredOutputError("n"), Fail(), Fail()),
    (errors.PermissionDeniedError("n"), Fail(), Fail()),
    (errors.ContentFilteredError("n"), Fail(), Fail()),
    (errors.BudgetExceededError("n"), Fail(), Fail()),
]


@pytest.mark.parametrize(
    ("error", "first", "last"), DECISIONS, ids=[case[0].error_type for case in DECISIONS]
)
def test_decisions(error: OpenCodeError, first: Decision, last: Decision) -> None:
    assert decide(error, 1, NOW, LIMITS) == first
    assert decide(error, LIMITS.max_attempts, NOW, LIMITS) == last


@pytest.mark.parametrize("cls", row_error_classes(), ids=lambda cls: cls.__name__)
def test_a_decision_follows_the_reaction_of_the_class(cls: type[OpenCodeError]) -> None:
    kinds = {"retry": Retry, "hold": AwaitPerson, "fail": Fail}
    assert type(decide(example(cls), 1, NOW, LIMITS)) is kinds[cls.reaction.action]


@pytest.mark.parametrize("cls", row_error_classes(), ids=lambda cls: cls.__name__)
def test_attempts_are_counted_by_the_reaction_of_the_class(cls: type[OpenCodeError]) -> None:
    counts = AttemptCounts(used=1)
    number = counts.count(example(cls))
    assert counts.used == (2 if cls.reaction.uses_attempt else 1)
    own_counters = {"cut_off_answers": counts.cut_off, "rate_limits": counts.limited}
    assert number == own_counters.get(cls.reaction.counter, counts.used)


@pytest.mark.parametrize("max_attempts", [1, 2, 3, 10])
def test_a_cut_off_answer_is_retried_once(max_attempts: int) -> None:
    limits = RetryLimits(max_attempts=max_attempts)
    error = errors.MaxOutputTokensError("n")
    assert decide(error, 1, NOW, limits) == Retry(NOW)
    assert decide(error, 2, NOW, limits) == Fail()


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (6, 60), (50, 60)]
)
def test_backoff_doubles_up_to_one_minute(attempt: int, seconds: float) -> None:
    for error in (
        errors.ServerError("n"),
        errors.UnknownOpenCodeError("n"),
        errors.OpenCodeTimeoutError("n"),
    ):
        assert backoff_s(error, attempt, LIMITS) == seconds
        assert decide(error, attempt, NOW, RetryLimits(max_attempts=99)) == after(seconds)


@pytest.mark.parametrize(
    ("wish", "seconds"), [(0.0, 0), (0.5, 0.5), (2.0, 2), (60.0, 60), (61.0, 61), (7200.0, 7200)]
)
@pytest.mark.parametrize("attempt", [1, 4])
def test_the_providers_wish_replaces_the_backoff(wish: float, seconds: float, attempt: int) -> None:
    assert backoff_s(errors.ServerError("n", retry_after=wish), attempt, LIMITS) == seconds


def test_the_limits_are_arguments() -> None:
    limits = RetryLimits(max_attempts=9, backoff_start_s=0.25, backoff_max_s=1.0)
    assert [backoff_s(errors.ServerError("n"), attempt, limits) for attempt in (1, 2, 3, 4)] == [
        0.25,
        0.5,
        1,
        1,
    ]


@pytest.mark.parametrize(("count", "seconds"), [(1, 1), (2, 2), (3, 4), (7, 60), (5000, 60)])
def test_a_reset_time_in_the_past_is_followed_by_growing_waits(count: int, seconds: float) -> None:
    error = errors.RateLimitError("n", NOW - timedelta(minutes=5))
    assert decide(error, count, NOW, LIMITS) == after(seconds)


@pytest.mark.parametrize(("count", "seconds"), [(1, 2), (2, 4), (5, 32), (6, 60), (5000, 60)])
def test_waits_for_a_limit_without_a_reset_time_double_from_two_seconds(count: int, seconds: float) -> None:
    error = errors.RateLimitError("n", NOW + timedelta(seconds=60))
    error.reset_is_named = False
    assert decide(error, count, NOW, LIMITS) == after(seconds)


@pytest.mark.parametrize("attempt", [1, 3, 4, 100])
def test_a_rate_limit_is_retried_after_any_number_of_limits(attempt: int) -> None:
    error = errors.RateLimitError("n", NOW + timedelta(seconds=30))
    assert decide(error, attempt, NOW, LIMITS) == after(30)


@given(st.integers(1, 2000))
def test_our_own_backoff_is_between_zero_and_one_minute(attempt: int) -> None:
    assert 0 <= backoff_s(errors.ServerError("n"), attempt, LIMITS) <= 60


def test_a_cut_off_answer_is_retried_once_after_other_failures_too() -> None:
    counts = AttemptCounts()
    cut, down = errors.MaxOutputTokensError("n"), errors.ServerError("n")
    assert [counts.count(error) for error in (down, cut, down, cut)] == [1, 1, 3, 2]
    assert isinstance(decide(cut, 1, NOW, RetryLimits(max_attempts=1)), Retry)


def test_a_rate_limit_uses_no_attempt() -> None:
    counts = AttemptCounts()
    limited = errors.RateLimitError("n", NOW)
    assert [counts.count(error) for error in (limited, limited, errors.ServerError("n"), limited)] == [
        1,
        2,
        1,
        3,
    ]


@pytest.mark.parametrize(("wish", "seconds"), [(None, 0), (7.0, 7)])
def test_the_rest_after_an_overload_is_the_providers_wish(wish: float | None, seconds: float) -> None:
    assert rest_s(errors.ServerError("n", retry_after=wish), NOW) == seconds


@pytest.mark.parametrize(("reset_s", "is_named", "seconds"), [(30, True, 30), (-30, True, 0), (60, False, 2)])
def test_the_rest_after_a_rate_limit_ends_at_its_reset(
    reset_s: float, is_named: bool, seconds: float
) -> None:
    error = errors.RateLimitError("n", NOW + timedelta(seconds=reset_s))
    error.reset_is_named = is_named
    assert rest_s(error, NOW) == seconds


def unavailable() -> OpenCodeError:
    error = errors.ServerError("n")
    error.is_unavailable = True
    return error


FIRST = NOW - timedelta(seconds=100)
# Whether other rows failed, the time of the last answer before, that of the row's first failure, the cause.
CAUSES: list[tuple[bool, datetime | None, datetime | None, Cause]] = [
    (False, None, None, "unclear"),
    (False, NOW, None, "unclear"),
    (True, NOW, None, "provider"),
    (True, NOW, FIRST, "provider"),
    (False, None, FIRST, "provider"),
    (False, FIRST - timedelta(seconds=61), FIRST, "provider"),
    (False, FIRST - timedelta(seconds=1), FIRST, "row"),
    (False, NOW, FIRST, "row"),
]


@pytest.mark.parametrize(("is_shared", "answered_at", "first_failure", "cause"), CAUSES)
def test_the_cause_of_a_failure_follows_from_the_other_rows(
    is_shared: bool, answered_at: datetime | None, first_failure: datetime | None, cause: Cause
) -> None:
    series = FailureSeries(since=FIRST, is_shared=is_shared, answered_at=answered_at)
    assert cause_of(unavailable(), series, first_failure) == cause
    assert cause_of(errors.ServerError("n"), series, first_failure) == "row"


def test_only_failures_of_the_row_make_it_final() -> None:
    counts = AttemptCounts()
    waits = [decide_row(unavailable(), "provider", counts, FIRST, NOW, LIMITS) for _ in range(6)]
    assert waits == [after(seconds) for seconds in (5, 10, 20, 40, 60, 60)]
    assert counts.used == 0
    once = RetryLimits(max_attempts=1)
    assert decide_row(unavailable(), "unclear", AttemptCounts(), None, NOW, once) == after(5)
    assert decide_row(unavailable(), "row", AttemptCounts(), FIRST, NOW, once) == Fail()
