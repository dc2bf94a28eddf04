"""A gate's life, on SQLite and PostgreSQL: who may pass, what closes it, what opens it again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from attempts import admitted, begin_attempt

from opencode_tasks import errors
from opencode_tasks.domain.policy import limit_end
from opencode_tasks.domain.records import AttemptRecord, RowInput
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.ledger import ClaimRequest, GateHold, GateObservation, Lease, Ledger

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GATE = "fake/echo#0123"


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with Ledger.open(ledger_url) as opened:
        opened.create_run(
            run_id="run",
            parameters={},
            model_ref="fake/echo",
            backend="server",
            opencode_version=None,
            deployment=None,
            flow_run_id=None,
            input_fingerprint="f",
            row_count=3,
            refresh=False,
            now=NOW,
        )
        opened.add_rows(
            "run",
            [RowInput(row_id=name, position=n, row_key=name, prompt=name) for n, name in enumerate("abc")],
        )
        yield opened


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def admit(ledger: Ledger, row: str, seconds: float) -> GateHold | None:
    return admitted(ledger, GATE, "run", row, now=at(seconds))


def report(
    ledger: Ledger,
    row: str,
    seconds: float,
    error: OpenCodeError | None,
    began: float = 0,
    *,
    is_try: bool = False,
) -> None:
    now = at(seconds)
    ledger.report(
        GateObservation(
            gate_id=GATE,
            model_ref="fake/echo",
            run_id="run",
            row_id=row,
            owner="owner",
            started_at=at(began),
            error=error,
            is_try=is_try,
        ),
        now=now,
        limit_end=lambda count: (
            limit_end(error, count, now) if isinstance(error, errors.RateLimitError) else now
        ),
        outage_end=lambda count: now + timedelta(seconds=10 * count),
        breaker_failures=3,
    )


def held_until(ledger: Ledger, row: str, seconds: float) -> float | None:
    held = admit(ledger, row, seconds)
    assert held is not None
    return None if held.until is None else (held.until - NOW).total_seconds()


def attempt(ledger: Ledger, row: str, number: int, error: OpenCodeError | None) -> None:
    """The ``number``-th attempt at a row, from second ``number`` on."""
    lease = ledger.take("run", row, owner="owner", now=at(number), lease_s=60)
    assert isinstance(lease, Lease)
    attempt_id = begin_attempt(ledger, lease, "run", row, attempt=number, now=at(number), gate_id=GATE)
    ledger.end_attempt(attempt_id, record=AttemptRecord(), error=error, now=at(number))
    ledger.release(lease)


def limited(seconds: float) -> errors.RateLimitError:
    return errors.RateLimitError("n", at(seconds), "slow down")


def test_a_gate_that_nothing_happened_at_is_open(ledger: Ledger) -> None:
    assert admit(ledger, "a", 0) is None
    report(ledger, "a", 1, None)
    assert ledger.gate(GATE) is None


def test_a_limit_closes_until_its_moment_and_a_probe_opens(ledger: Ledger) -> None:
    report(ledger, "a", 0, limited(30))
    assert held_until(ledger, "b", 1) == 30
    # What was in flight then says nothing of now, whichever way it ends.
    report(ledger, "b", 2, None)
    assert held_until(ledger, "b", 3) == 30
    assert admit(ledger, "b", 30) is None
    assert held_until(ledger, "c", 30) == 30.5
    report(ledger, "b", 31, None, began=30)
    assert admit(ledger, "c", 31) is None
    gate = ledger.gate(GATE)
    assert gate is not None
    assert gate.is_open


def test_limits_of_one_burst_are_one_closing_and_the_latest_moment_counts(ledger: Ledger) -> None:
    for row, seconds in (("a", 30), ("b", 20), ("c", 40)):
        report(ledger, row, 0, limited(seconds))
    assert held_until(ledger, "a", 1) == 40


def test_a_try_that_is_refused_without_a_moment_leaves_an_open_gate_open(ledger: Ledger) -> None:
    refused = limited(60)
    refused.reset_is_named = False
    report(ledger, "a", 0, refused, is_try=True)
    assert admit(ledger, "b", 0) is None
    # A moment that the provider names is kept to, and a closed gate is told by its probe.
    report(ledger, "a", 1, limited(30), is_try=True)
    assert held_until(ledger, "b", 2) == 30
    assert admit(ledger, "b", 30) is None
    report(ledger, "b", 31, refused, began=30, is_try=True)
    assert held_until(ledger, "c", 32) is not None


def test_unnamed_limits_double_with_each_probe(ledger: Ledger) -> None:
    def unnamed() -> errors.RateLimitError:
        error = limited(60)
        error.reset_is_named = False
        return error

    report(ledger, "a", 0, unnamed())
    report(ledger, "b", 0, unnamed())
    assert held_until(ledger, "a", 0) == 2
    assert admit(ledger, "a", 2) is None
    report(ledger, "a", 2, unnamed(), began=2)
    assert held_until(ledger, "a", 2) == 6


def test_a_probe_that_died_is_followed_by_another(ledger: Ledger) -> None:
    report(ledger, "a", 0, limited(10))
    assert admit(ledger, "b", 10) is None
    assert admit(ledger, "c", 69) is not None
    assert admit(ledger, "c", 71) is None


def test_failures_in_a_row_close_and_an_answer_between_them_does_not_count(ledger: Ledger) -> None:
    down = errors.ServerError("n", raw_message="down")
    for error in (down, down, None, down, down):
        report(ledger, "a", 0, error)
    assert admit(ledger, "a", 0) is None
    report(ledger, "a", 0, errors.OpenCodeTimeoutError("n"))
    assert held_until(ledger, "a", 0) == 10
    assert admit(ledger, "a", 10) is None
    report(ledger, "a", 10, down, began=10)
    assert held_until(ledger, "a", 10) == 30


@pytest.mark.parametrize("kind", [errors.AuthenticationError, errors.BillingError])
def test_a_second_rows_refusal_asks_for_a_person(
    ledger: Ledger, kind: type[errors.AuthenticationError | errors.BillingError]
) -> None:
    report(ledger, "a", 0, kind("n"))
    assert held_until(ledger, "a", 1) is None
    assert admit(ledger, "b", 1) is None
    assert held_until(ledger, "c", 1) == 1.5
    report(ledger, "b", 2, kind("n"), began=1)
    assert held_until(ledger, "c", 3) is None
    ledger.half_open(GATE, now=at(4))
    assert admit(ledger, "c", 4) is None
    report(ledger, "c", 5, None, began=4)
    assert admit(ledger, "a", 5) is None
    assert ledger.open_count("run") == 3


def test_an_answer_to_another_row_shows_the_refusal_to_be_the_rows_own(ledger: Ledger) -> None:
    report(ledger, "a", 0, errors.AuthenticationError("n", raw_message="not for you"))
    assert admit(ledger, "b", 1) is None
    report(ledger, "b", 2, None, began=1)
    assert admit(ledger, "c", 2) is None
    outcome = ledger.outcomes("run")[0]
    assert (outcome["status"], outcome["error_type"]) == ("failed", "authentication_failed")
    assert outcome["error_message"] == "not for you"


def test_a_row_that_is_refused_again_after_others_were_answered_has_failed(ledger: Ledger) -> None:
    refused = errors.BillingError("n", raw_message="no")
    attempt(ledger, "a", 1, refused)
    report(ledger, "a", 2, refused)
    ledger.half_open(GATE, now=at(3))
    assert admit(ledger, "b", 3) is None
    attempt(ledger, "b", 4, None)
    report(ledger, "b", 5, None, began=4)
    attempt(ledger, "a", 6, refused)
    report(ledger, "a", 7, refused, began=6)
    assert admit(ledger, "c", 8) is None
    outcome, *others = ledger.outcomes("run")
    assert [row["row_id"] for row in others if row["status"] == "open"] == ["b", "c"]
    assert (outcome["status"], outcome["error_message"]) == ("failed", "no")


def test_a_limit_stays_when_a_row_in_flight_is_refused(ledger: Ledger) -> None:
    report(ledger, "a", 0, limited(30))
    report(ledger, "b", 1, errors.AuthenticationError("n"))
    assert held_until(ledger, "c", 2) == 30


def test_a_row_knows_how_often_it_was_tried_and_since_when_it_is_limited(ledger: Ledger) -> None:
    ends: list[OpenCodeError] = [
        limited(5),
        limited(9),
        errors.ServerError("n"),
        errors.AuthenticationError("n"),
        errors.MaxOutputTokensError("n"),
    ]
    for number, error in enumerate(ends, 1):
        attempt(ledger, "a", number, error)
    asked = ClaimRequest(
        run_id="run",
        owner="another",
        gate_id="another",
        most=1,
        now=at(1000),
        lease_s=60,
        node_id="n",
        host="h",
        backend="server",
        data_dir=None,
    )
    row = ledger.claim(asked).rows[0].row
    assert row.row_id == "a"
    assert (row.attempts, row.used, row.limited, row.cut_off) == (5, 2, 2, 1)
    assert row.limited_since == at(1)


def test_a_new_run_does_not_open_a_limit(ledger: Ledger) -> None:
    report(ledger, "a", 0, limited(30))
    ledger.half_open(GATE, now=at(1))
    assert held_until(ledger, "b", 2) == 30


def test_a_row_that_failed_before_lets_another_try_first(ledger: Ledger) -> None:
    def troubled(seconds: float) -> GateHold | None:
        return admitted(ledger, GATE, "run", "a", now=at(seconds), is_troubled=True)

    assert troubled(0) is None
    report(ledger, "b", 0, limited(30))
    held = troubled(30)
    assert held is not None
    assert held.until == at(33)
    assert admit(ledger, "b", 31) is None
    report(ledger, "b", 32, None, began=31)
    assert troubled(32) is None
    report(ledger, "c", 33, limited(60), began=33)
    # Where there is no other, it is the probe itself.
    assert troubled(63) is None
