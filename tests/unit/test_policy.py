"""``decide``: each class of error has its reaction, and waits have their bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks import errors
from opencode_tasks.domain.policy import (
    AttemptCounts,
    Decision,
    Fail,
    Pause,
    Retry,
    RetryLimits,
    backoff_s,
    decide,
)
from opencode_tasks.errors import OpenCodeError

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
LIMITS = RetryLimits()


def after(seconds: float) -> Retry:
    return Retry(NOW + timedelta(seconds=seconds))


# The reaction to each class at the first attempt, and at the last one.
REACTIONS: list[tuple[OpenCodeError, Decision, Decision]] = [
    (OpenCodeError("n", "odd"), after(5), Fail()),
    (errors.RateLimitError("n", NOW + timedelta(hours=2)), after(7200), after(7200)),
    (
        errors.AuthenticationError("n"),
        Pause(None, "authentication_failed on n: "),
        Pause(None, "authentication_failed on n: "),
    ),
    (errors.BillingError("n"), Pause(None, "billing_error on n: "), Pause(None, "billing_error on n: ")),
    (errors.InvalidRequestError("n"), Fail(), Fail()),
    (errors.ServerError("n"), after(5), Fail()),
    (errors.MaxOutputTokensError("n"), after(0), Fail()),
    (errors.UnknownOpenCodeError("n"), after(5), Fail()),
    (errors.OpenCodeTimeoutError("n"), after(5), Fail()),
    (errors.StructuredOutputError("n"), Fail(), Fail()),
    (errors.PermissionDeniedError("n"), Fail(), Fail()),
    (errors.ContentFilteredError("n"), Fail(), Fail()),
    (errors.BudgetExceededError("n"), Fail(), Fail()),
    (errors.SetupError("n"), Fail(), Fail()),
]


def all_classes(cls: type[OpenCodeError]) -> set[type[OpenCodeError]]:
    return {cls}.union(
        *(all_classes(sub) for sub in cls.__subclasses__() if sub.__module__ == errors.__name__)
    )


def test_every_class_has_its_reaction() -> None:
    assert {type(error) for error, _, _ in REACTIONS} == all_classes(OpenCodeError)


@pytest.mark.parametrize(("error", "first", "last"), REACTIONS, ids=[r[0].error_type for r in REACTIONS])
def test_reactions(error: OpenCodeError, first: Decision, last: Decision) -> None:
    assert decide(error, 1, NOW, LIMITS) == first
    assert decide(error, LIMITS.max_attempts, NOW, LIMITS) == last


@pytest.mark.parametrize(("error", "first", "last"), REACTIONS, ids=[r[0].error_type for r in REACTIONS])
def test_a_decision_agrees_with_the_disposition(
    error: OpenCodeError, first: Decision, last: Decision
) -> None:
    del last
    assert type(first) is {"retry": Retry, "pause": Pause, "fail": Fail}[error.disposition]


@pytest.mark.parametrize("max_attempts", [1, 2, 3, 10])
def test_an_answer_that_is_cut_is_asked_once_more_and_no_more(max_attempts: int) -> None:
    limits = RetryLimits(max_attempts=max_attempts)
    error = errors.MaxOutputTokensError("n")
    assert decide(error, 1, NOW, limits) == Retry(NOW)
    assert decide(error, 2, NOW, limits) == Fail()


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (6, 60), (50, 60)]
)
def test_backoff_doubles_up_to_a_minute(attempt: int, seconds: float) -> None:
    for error in (
        errors.ServerError("n"),
        errors.UnknownOpenCodeError("n"),
        errors.OpenCodeTimeoutError("n"),
    ):
        assert backoff_s(error, attempt, LIMITS) == seconds
        assert decide(error, attempt, NOW, RetryLimits(max_attempts=99)) == after(seconds)


@pytest.mark.parametrize(
    ("wish", "seconds"), [(0.0, 0), (0.5, 0.5), (2.0, 2), (60.0, 60), (61.0, 60), (7200.0, 60)]
)
@pytest.mark.parametrize("attempt", [1, 4])
def test_a_providers_wish_comes_before_our_backoff_within_the_bound(
    wish: float, seconds: float, attempt: int
) -> None:
    assert backoff_s(errors.ServerError("n", retry_after=wish), attempt, LIMITS) == seconds


def test_the_bounds_are_arguments() -> None:
    limits = RetryLimits(max_attempts=9, backoff_start_s=0.25, backoff_max_s=1.0)
    assert [backoff_s(errors.ServerError("n"), attempt, limits) for attempt in (1, 2, 3, 4)] == [
        0.25,
        0.5,
        1,
        1,
    ]


@pytest.mark.parametrize(("count", "seconds"), [(1, 1), (2, 2), (3, 4), (7, 60), (5000, 60)])
def test_a_reset_that_has_passed_is_not_asked_without_end(count: int, seconds: float) -> None:
    error = errors.RateLimitError("n", NOW - timedelta(minutes=5))
    assert decide(error, count, NOW, LIMITS) == after(seconds)


@pytest.mark.parametrize(("count", "seconds"), [(1, 2), (2, 4), (5, 32), (6, 60), (5000, 60)])
def test_a_limit_without_a_moment_doubles_from_two_seconds(count: int, seconds: float) -> None:
    error = errors.RateLimitError("n", NOW + timedelta(seconds=60))
    error.reset_is_named = False
    assert decide(error, count, NOW, LIMITS) == after(seconds)


@pytest.mark.parametrize("attempt", [1, 3, 4, 100])
def test_rate_limits_use_up_no_attempts(attempt: int) -> None:
    error = errors.RateLimitError("n", NOW + timedelta(seconds=30))
    assert decide(error, attempt, NOW, LIMITS) == after(30)


@given(st.integers(1, 2000), st.none() | st.floats(0, 1e9))
def test_a_wait_is_never_long_nor_negative(attempt: int, wish: float | None) -> None:
    assert 0 <= backoff_s(errors.ServerError("n", retry_after=wish), attempt, LIMITS) <= 60


def test_a_cut_answer_gets_its_second_chance_after_other_failures_too() -> None:
    counts = AttemptCounts()
    cut, down = errors.MaxOutputTokensError("n"), errors.ServerError("n")
    assert [counts.count(error) for error in (down, cut, down, cut)] == [1, 1, 3, 2]
    assert isinstance(decide(cut, 1, NOW, RetryLimits(max_attempts=1)), Retry)


def test_a_rate_limit_uses_up_no_attempt() -> None:
    counts = AttemptCounts()
    limited = errors.RateLimitError("n", NOW)
    assert [counts.count(error) for error in (limited, limited, errors.ServerError("n"), limited)] == [
        1,
        2,
        1,
        3,
    ]
