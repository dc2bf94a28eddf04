"""Gates on SQLite and PostgreSQL: which rows pass, what closes a gate, what opens it again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from attempts import admitted, begin_attempt, wait

from opencode_tasks import Hold, errors
from opencode_tasks.domain.policy import limit_end
from opencode_tasks.domain.records import AttemptRecord, RowInput
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.ledger import (
    ClaimRequest,
    ConcurrencyRequest,
    EndedAttempt,
    GateObservation,
    Lease,
    Ledger,
    ListedGate,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GATE = "fake/echo#0123"


@pytest.fixture
def ledger(ledger: Ledger) -> Ledger:
    ledger.runs.create(
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
    ledger.rows.add(
        "run",
        [RowInput(row_id=name, position=n, row_key=name, prompt=name) for n, name in enumerate("abc")],
    )
    ledger.runs.ready("run")
    return ledger


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def admit(ledger: Ledger, row: str, seconds: float) -> Hold | None:
    return admitted(ledger, GATE, "run", row, now=at(seconds))


def record(
    ledger: Ledger,
    row: str,
    seconds: float,
    error: OpenCodeError | None,
    started: float = 0,
    *,
    exceeds_known_limit: bool = False,
) -> None:
    now = at(seconds)
    ledger.gates.record(
        GateObservation(
            gate_id=GATE,
            model_ref="fake/echo",
            run_id="run",
            row_id=row,
            owner="owner",
            started_at=at(started),
            error=error,
            exceeds_known_limit=exceeds_known_limit,
        ),
        now=now,
        limit_end=lambda count: (
            limit_end(error, count, now) if isinstance(error, errors.RateLimitError) else now
        ),
        outage_end=lambda count: now + timedelta(seconds=10 * count),
        breaker_failures=3,
    )


def closed_until(ledger: Ledger, row: str, seconds: float) -> float | None:
    hold = admit(ledger, row, seconds)
    assert hold is not None
    return None if hold.until is None else (hold.until - NOW).total_seconds()


def attempt(ledger: Ledger, row: str, number: int, error: OpenCodeError | None) -> None:
    """Start and end an attempt at a row, in the second ``number``."""
    lease = ledger.queue.claim_row("run", row, owner="owner", now=at(number), lease_s=60)
    assert isinstance(lease, Lease)
    attempt_id = begin_attempt(ledger, lease, "run", row, attempt=number, now=at(number), gate_id=GATE)
    end = EndedAttempt(
        lease=lease, attempt_id=attempt_id, record=AttemptRecord(), now=at(number), error=error
    )
    assert ledger.queue.end([end]) == [True]


def limited(seconds: float) -> errors.RateLimitError:
    return errors.RateLimitError("n", at(seconds), "slow down")


def test_a_gate_without_failuresis_open(ledger: Ledger) -> None:
    assert admit(ledger, "a", 0) is None
    record(ledger, "a", 1, None)
    assert ledger.gates.get(GATE) is None


def test_a_rate_limit_closes_the_gate_until_its_reset_time_and_a_probe_opens_it(ledger: Ledger) -> None:
    record(ledger, "a", 0, limited(30))
    assert closed_until(ledger, "b", 1) == 30
    # An answer to a row that was in flight at the closure does not open the gate.
    record(ledger, "b", 2, None)
    assert closed_until(ledger, "b", 3) == 30
    assert admit(ledger, "b", 30) is None
    assert closed_until(ledger, "c", 30) == 30.5
    record(ledger, "b", 31, None, started=30)
    assert admit(ledger, "c", 31) is None
    gate = ledger.gates.get(GATE)
    assert gate is not None
    assert gate.is_open


def test_rate_limits_of_one_burst_are_one_closure_until_the_latest_reset_time(ledger: Ledger) -> None:
    for row, seconds in (("a", 30), ("b", 20), ("c", 40)):
        record(ledger, row, 0, limited(seconds))
    assert closed_until(ledger, "a", 1) == 40


def test_a_rate_limit_above_the_known_limit_without_a_reset_time_keeps_the_gate_open(ledger: Ledger) -> None:
    refused = limited(60)
    refused.reset_is_named = False
    record(ledger, "a", 0, refused, exceeds_known_limit=True)
    assert admit(ledger, "b", 0) is None
    # A reset time closes the gate all the same, and so does any rate limit of a probe.
    record(ledger, "a", 1, limited(30), exceeds_known_limit=True)
    assert closed_until(ledger, "b", 2) == 30
    assert admit(ledger, "b", 30) is None
    record(ledger, "b", 31, refused, started=30, exceeds_known_limit=True)
    assert closed_until(ledger, "c", 32) is not None


def test_the_closure_without_a_reset_time_doubles_with_each_probe(ledger: Ledger) -> None:
    def unnamed() -> errors.RateLimitError:
        error = limited(60)
        error.reset_is_named = False
        return error

    record(ledger, "a", 0, unnamed())
    record(ledger, "b", 0, unnamed())
    assert closed_until(ledger, "a", 0) == 2
    assert admit(ledger, "a", 2) is None
    record(ledger, "a", 2, unnamed(), started=2)
    assert closed_until(ledger, "a", 2) == 6


def test_an_expired_probe_is_followed_by_another(ledger: Ledger) -> None:
    record(ledger, "a", 0, limited(10))
    assert admit(ledger, "b", 10) is None
    assert admit(ledger, "c", 69) is not None
    assert admit(ledger, "c", 71) is None


def test_consecutive_failures_close_the_gate(ledger: Ledger) -> None:
    down = errors.ServerError("n", raw_message="down")
    for error in (down, down, None, down, down):
        record(ledger, "a", 0, error)
    assert admit(ledger, "a", 0) is None
    record(ledger, "a", 0, errors.OpenCodeTimeoutError("n"))
    assert closed_until(ledger, "a", 0) == 10
    assert admit(ledger, "a", 10) is None
    record(ledger, "a", 10, down, started=10)
    assert closed_until(ledger, "a", 10) == 30


@pytest.mark.parametrize("kind", [errors.AuthenticationError, errors.BillingError])
def test_a_refusal_of_a_second_row_waits_for_a_person(
    ledger: Ledger, kind: type[errors.AuthenticationError | errors.BillingError]
) -> None:
    record(ledger, "a", 0, kind("n"))
    assert closed_until(ledger, "a", 1) is None
    assert admit(ledger, "b", 1) is None
    assert closed_until(ledger, "c", 1) == 1.5
    record(ledger, "b", 2, kind("n"), started=1)
    assert closed_until(ledger, "c", 3) is None
    ledger.gates.half_open(GATE, now=at(4))
    assert admit(ledger, "c", 4) is None
    record(ledger, "c", 5, None, started=4)
    assert admit(ledger, "a", 5) is None
    assert ledger.rows.count_open("run") == 3


def test_an_answer_to_a_second_row_fails_the_refused_row(ledger: Ledger) -> None:
    record(ledger, "a", 0, errors.AuthenticationError("n", raw_message="not for you"))
    assert admit(ledger, "b", 1) is None
    record(ledger, "b", 2, None, started=1)
    assert admit(ledger, "c", 2) is None
    outcome = ledger.results.outcomes("run")[0]
    assert (outcome["status"], outcome["error_type"]) == ("failed", "authentication_failed")
    assert outcome["error_message"] == "not for you"


def test_a_row_that_is_refused_again_after_others_were_answered_fails(ledger: Ledger) -> None:
    refused = errors.BillingError("n", raw_message="no")
    attempt(ledger, "a", 1, refused)
    record(ledger, "a", 2, refused)
    ledger.gates.half_open(GATE, now=at(3))
    assert admit(ledger, "b", 3) is None
    attempt(ledger, "b", 4, None)
    record(ledger, "b", 5, None, started=4)
    attempt(ledger, "a", 6, refused)
    record(ledger, "a", 7, refused, started=6)
    assert admit(ledger, "c", 8) is None
    outcome, *others = ledger.results.outcomes("run")
    assert [row["row_id"] for row in others if row["status"] == "open"] == ["b", "c"]
    assert (outcome["status"], outcome["error_message"]) == ("failed", "no")


def test_a_refusal_of_a_row_in_flight_keeps_the_reset_time(ledger: Ledger) -> None:
    record(ledger, "a", 0, limited(30))
    record(ledger, "b", 1, errors.AuthenticationError("n"))
    assert closed_until(ledger, "c", 2) == 30


def test_a_claimed_row_has_the_counts_of_its_attempts(ledger: Ledger) -> None:
    failures: list[OpenCodeError] = [
        limited(5),
        limited(9),
        errors.ServerError("n"),
        errors.AuthenticationError("n"),
        errors.MaxOutputTokensError("n"),
    ]
    for number, error in enumerate(failures, 1):
        attempt(ledger, "a", number, error)
    request = ClaimRequest(
        run_id="run",
        owner="another",
        gate_id="another",
        limit=1,
        now=at(1000),
        lease_s=60,
        node_id="n",
        host="h",
        backend="server",
        data_dir=None,
    )
    row = ledger.queue.claim(request).rows[0].row
    assert row.row_id == "a"
    assert (row.attempts, row.used, row.limited, row.cut_off) == (5, 2, 2, 1)


def test_a_new_run_does_not_open_a_gate_with_a_reset_time(ledger: Ledger) -> None:
    record(ledger, "a", 0, limited(30))
    ledger.gates.half_open(GATE, now=at(1))
    assert closed_until(ledger, "b", 2) == 30


def test_a_row_that_failed_before_lets_another_row_pass_first(ledger: Ledger) -> None:
    def admit_failed(seconds: float) -> Hold | None:
        return admitted(ledger, GATE, "run", "a", now=at(seconds), has_failed=True)

    assert admit_failed(0) is None
    record(ledger, "b", 0, limited(30))
    hold = admit_failed(30)
    assert hold is not None
    assert hold.until == at(33)
    assert admit(ledger, "b", 31) is None
    record(ledger, "b", 32, None, started=31)
    assert admit_failed(32) is None
    record(ledger, "c", 33, limited(60), started=33)
    # If no other row comes, it is the probe.
    assert admit_failed(63) is None


def test_closed_gates_are_listed_with_reason_times_and_rows_that_wait(ledger: Ledger) -> None:
    assert ledger.gates.list(now=at(0)) == []
    attempt(ledger, "a", 1, limited(30))
    record(ledger, "a", 2, limited(30))
    closed = ListedGate(
        gate_id=GATE,
        model_ref="fake/echo",
        state="closed",
        error_type="rate_limit",
        error_message="slow down",
        since=at(2),
        until=at(30),
        max_rows=None,
        waiting_rows=3,
    )
    assert ledger.gates.list(now=at(3)) == [closed]
    assert ledger.gates.list(now=at(31)) == [replace(closed, state="half_open")]


def test_a_limited_gate_is_listed_with_the_rows_that_the_provider_accepts(ledger: Ledger) -> None:
    refused = ConcurrencyRequest(
        start=8,
        wants=8,
        in_flight=8,
        answers=(),
        refusals=(at(0),) * 3,
        refused_of=8,
        is_pressed=True,
        rest_s=1,
    )
    ledger.concurrency.sync(GATE, "owner", refused, now=at(1))
    [found] = ledger.gates.list(now=at(2))
    assert (found.state, found.model_ref, found.max_rows, found.until) == ("limited", "fake/echo", 5, None)
    assert ledger.gates.list(now=at(2 * 24 * 3600)) == []
    assert ledger.gates.open(GATE, now=at(3)) is False


def test_a_person_opens_a_gate_and_ends_the_waits_of_its_rows(ledger: Ledger) -> None:
    attempt(ledger, "a", 1, limited(9000))
    record(ledger, "a", 2, limited(9000))
    lease = ledger.queue.claim_row("run", "a", owner="owner", now=at(3), lease_s=60)
    assert isinstance(lease, Lease)
    attempt_id = begin_attempt(ledger, lease, "run", "a", attempt=2, now=at(3), gate_id=GATE)
    assert wait(ledger, lease, attempt_id, limited(9000), AttemptRecord(), now=at(3), until=at(9000))
    assert ledger.queue.state("run", GATE, now=at(4), limit=9).ready == 2
    assert [ledger.gates.open(GATE, now=at(5)) for _ in range(2)] == [True, False]
    assert ledger.gates.open("fake/other#0", now=at(5)) is None
    assert ledger.gates.list(now=at(5)) == []
    assert admit(ledger, "b", 5) is None
    assert ledger.queue.state("run", GATE, now=at(6), limit=9).ready == 3
