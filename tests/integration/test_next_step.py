"""In every state that a run can reach, its next step agrees with what a claim does.

A run that may send rows sends one, or one is in flight; a run that waits can send none before the time
that it names; a run that needs a person can send none. So no state holds a run without end or reason.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attempts import finished, wait
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opencode_tasks.domain.next_step import Done, NeedsPerson, NextStep, Run, Wait, next_step
from opencode_tasks.domain.policy import RetryLimits
from opencode_tasks.domain.records import Answer, AttemptRecord, RowInput
from opencode_tasks.errors import AuthenticationError, OpenCodeError, RateLimitError, ServerError
from opencode_tasks.ledger import (
    ClaimedRow,
    ClaimRequest,
    ClaimResult,
    GateObservation,
    Ledger,
)
from opencode_tasks.ledger.claim import claim

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
GATE = "p/m#0"
LEASE_S = 60.0
ROWS = 3
LIMITS = RetryLimits(max_rate_limit_wait_s=5000.0, max_outage_wait_s=600.0)
# In these times another row becomes the probe of a half-open gate, or a lease of a dead worker ends.
SOON_S = (0.0, 0.6, 3.1, LEASE_S + 0.1)


@dataclass(slots=True)
class Situation:
    """A run in a ledger, its rows in flight, and the time there."""

    ledger: Ledger
    now: datetime = START
    in_flight: list[ClaimedRow] = field(default_factory=list[ClaimedRow])

    def request(self, owner: str = "w", limit: int = 2, at: datetime | None = None) -> ClaimRequest:
        return ClaimRequest(
            run_id="run",
            owner=owner,
            gate_id=GATE,
            limit=limit,
            lease_s=LEASE_S,
            node_id="n",
            host="h",
            backend="server",
            data_dir=None,
            max_cost_of=lambda _: 10,
            is_idle=owner != "w",
            now=at or self.now,
        )

    def step(self, at: datetime | None = None) -> NextStep:
        return next_step(self.ledger.queue.state("run", GATE, now=at or self.now), LIMITS)

    def would_claim(self, after_s: float) -> ClaimResult:
        """What an idle worker would claim; nothing is changed."""
        with self.ledger._database.engine.connect() as connection, connection.begin() as transaction:
            found = claim(connection, self.request("other", at=self.now + timedelta(seconds=after_s)))
            transaction.rollback()
        return found


def claim_rows(one: Situation, number: int) -> None:
    one.in_flight += one.ledger.queue.claim(one.request(limit=1 + number % 3)).rows


def answer(one: Situation, number: int) -> None:
    if not one.in_flight:
        return
    claimed = one.in_flight.pop(number % len(one.in_flight))
    record = AttemptRecord(session_id=f"s{claimed.attempt_id}")
    found = Answer(
        text="yes", finish_reason="stop", attempt=record, structured=None, turns=1, model_ref="p/m"
    )
    ended = finished(claimed.lease, claimed.attempt_id, found, record, now=one.now)
    one.ledger.queue.end([ended], [observation(one, claimed, None)])


def observation(one: Situation, claimed: ClaimedRow, error: OpenCodeError | None) -> GateObservation:
    return GateObservation(
        gate_id=GATE,
        model_ref="p/m",
        run_id="run",
        row_id=claimed.row.row_id,
        owner="w",
        started_at=one.now - timedelta(seconds=1),
        error=error,
    )


def fails(
    error_at: Callable[[datetime, int], OpenCodeError], wait_s: float | None
) -> Callable[[Situation, int], None]:
    """A row in flight ends with an error and waits for a time, or for a person with None."""

    def fail(one: Situation, number: int) -> None:
        if not one.in_flight:
            return
        claimed = one.in_flight.pop(number % len(one.in_flight))
        error = error_at(one.now, number)
        until = None if wait_s is None else one.now + timedelta(seconds=wait_s * (1 + number))
        one.ledger.gates.record(
            observation(one, claimed, error),
            now=one.now,
            limit_end=lambda _: until or one.now,
            outage_end=lambda _: one.now + timedelta(seconds=20),
            breaker_failures=2,
        )
        # False if a check has claimed the row after its lease had expired.
        wait(one.ledger, claimed.lease, claimed.attempt_id, error, AttemptRecord(), now=one.now, until=until)

    return fail


def advance(one: Situation, number: int) -> None:
    one.now += timedelta(seconds=(0.2, 1.0, 4.0, 30.0, 61.0, 700.0)[number % 6])


def die(one: Situation, number: int) -> None:
    del number
    one.in_flight.clear()


def budget(one: Situation, number: int) -> None:
    one.ledger.budgets.set("run", None if number % 3 == 0 else 10 * number)


def person(one: Situation, number: int) -> None:
    del number
    one.ledger.gates.half_open(GATE, now=one.now)
    one.ledger.budgets.set("run", None)
    one.ledger.runs.resume("run", by_person_at=one.now)


ACTIONS: dict[str, Callable[[Situation, int], None]] = {
    "claim": claim_rows,
    "answer": answer,
    "limit": fails(lambda now, n: RateLimitError("n", now + timedelta(seconds=20 * (1 + n)), "slow"), 20.0),
    "long limit": fails(lambda now, _: RateLimitError("n", now + timedelta(seconds=9000), "slow"), 9000.0),
    "outage": fails(lambda _now, _n: ServerError("n", raw_message="down"), 5.0),
    "refusal": fails(lambda _now, _n: AuthenticationError("n", raw_message="no"), None),
    "advance": advance,
    "die": die,
    "budget": budget,
    "person": person,
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "template.db"
    with Ledger.open(str(path)) as ledger:
        create: dict[str, Any] = {"opencode_version": None, "deployment": None, "flow_run_id": None}
        ledger.runs.create(
            run_id="run",
            parameters={},
            model_ref="p/m",
            backend="server",
            input_fingerprint="f",
            row_count=ROWS,
            refresh=False,
            now=START,
            **create,
        )
        rows = [RowInput(row_id=f"r{n}", position=n, row_key=f"k{n}", prompt=f"p{n}") for n in range(ROWS)]
        ledger.rows.add("run", rows)
        ledger.runs.ready("run")
    return path


@contextmanager
def situation(template: Path) -> Generator[Situation]:
    copy = template.with_name("copy.db")
    for old in template.parent.glob("copy.db*"):
        old.unlink()
    shutil.copy(template, copy)
    with Ledger.open(str(copy)) as ledger:
        yield Situation(ledger)


ALL_BUT_ONE_ANSWERED = [("claim", 2), ("answer", 0), ("answer", 0)]


@pytest.mark.slow
@settings(max_examples=60)
@example(steps=[*ALL_BUT_ONE_ANSWERED, ("refusal", 0)])
@example(steps=[*ALL_BUT_ONE_ANSWERED, ("limit", 0), ("advance", 5)])
@example(steps=[("claim", 1), ("outage", 0), ("advance", 0)])
@example(steps=[("claim", 0), ("advance", 4), ("budget", 1), ("limit", 0)])
@example(steps=[("budget", 1), ("claim", 1), ("answer", 0), ("claim", 0)])
@given(steps=st.lists(st.tuples(st.sampled_from(sorted(ACTIONS)), st.integers(0, 5)), max_size=20))
def test_the_next_step_agrees_with_what_a_claim_does(template: Path, steps: list[tuple[str, int]]) -> None:
    with situation(template) as one:
        for action, number in steps:
            ACTIONS[action](one, number)
            check(one)


def check(one: Situation) -> None:
    step, now = one.step(), one.would_claim(0.0)
    match step:
        case Done():
            assert one.ledger.rows.count_open("run") == 0
        case Wait(hold):
            assert hold.until is not None
            assert hold.until > one.now
            assert hold.open_rows == one.ledger.rows.count_open("run")
            assert now == ClaimResult()
            assert hold.applies_to_all or not one.ledger.queue.owners("run", now=one.now)
        case NeedsPerson(hold):
            assert hold.until is None
            assert hold.open_rows == one.ledger.rows.count_open("run")
        case Run():
            is_in_flight = bool(one.ledger.queue.state("run", GATE, now=one.now).has_leased)
            claims = [one.would_claim(seconds) for seconds in SOON_S]
            assert (
                is_in_flight
                or any(found.rows or found.finished for found in claims)
                or budget_is_reached(one)
            )


def budget_is_reached(one: Situation) -> bool:
    """Whether the next claim finds that the budget covers no row, so that a person must act."""
    for seconds in SOON_S:
        at = one.now + timedelta(seconds=seconds)
        assert one.ledger.queue.claim(one.request("other", at=at)) == ClaimResult()
        if isinstance(one.step(at), NeedsPerson):
            return True
    return False
