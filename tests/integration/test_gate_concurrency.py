"""Concurrency of a gate on SQLite and PostgreSQL: shares, cuts, rate limits, batches of a process."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opencode_tasks import errors
from opencode_tasks.domain.concurrency import FIRST_GAP_S, REMEMBERED_S
from opencode_tasks.domain.policy import RetryLimits
from opencode_tasks.domain.rate_limits import RateLimits
from opencode_tasks.domain.records import AttemptRecord, Session, Step, Usage
from opencode_tasks.engine.limiter import Limiter, is_answer, is_refusal
from opencode_tasks.ledger import Allocation, ConcurrencyRequest, ConcurrencyState, Ledger
from opencode_tasks.ledger.concurrency import LEAVING_TIMEOUT_S, WORKER_TIMEOUT_S
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.plan.run_spec import RunSpec

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GATE = "fake/echo#0123"


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def sync(ledger: Ledger, owner: str, seconds: float, **more: Any) -> Allocation:
    defaults: dict[str, Any] = {"in_flight": 0, "wants": 30, "start": 4}
    return ledger.concurrency.sync(GATE, owner, ConcurrencyRequest(**(defaults | more)), now=at(seconds))


def state(ledger: Ledger, seconds: float) -> ConcurrencyState:
    found = ledger.concurrency.get(GATE, now=at(seconds))
    assert found is not None
    return found


def test_a_gate_without_rows_has_no_state(ledger: Ledger) -> None:
    assert ledger.concurrency.get(GATE, now=NOW) is None


def test_a_share_is_valid_until_the_next_request_of_its_worker(ledger: Ledger) -> None:
    assert sync(ledger, "a", 0).slots == 4
    assert sync(ledger, "b", 0.5).slots == 0
    assert sync(ledger, "a", 1, in_flight=4).slots == 2
    # Two rows of the first worker are still in flight.
    assert sync(ledger, "b", 1.5).slots == 0
    assert sync(ledger, "a", 2, in_flight=2).slots == 2
    assert sync(ledger, "b", 2.5).slots == 2
    assert state(ledger, 2.5) == ConcurrencyState(in_flight=2, limit=4, ceiling=None)


def test_a_worker_without_rows_leaves_all_slots_to_the_other(ledger: Ledger) -> None:
    sync(ledger, "a", 0)
    sync(ledger, "a", 1, wants=0)
    assert sync(ledger, "b", 1).slots == 4


def test_a_share_is_kept_for_a_short_time_for_the_next_batch(ledger: Ledger) -> None:
    sync(ledger, "a", 0)
    sync(ledger, "a", 1, wants=0, is_leaving=True)
    assert sync(ledger, "b", 1.5).slots == 0
    assert sync(ledger, "a", 2).slots == 2
    sync(ledger, "a", 3, wants=0, is_leaving=True)
    assert sync(ledger, "b", 3 + LEAVING_TIMEOUT_S).slots == 4


def test_the_share_of_a_dead_worker_expires(ledger: Ledger) -> None:
    sync(ledger, "a", 0, in_flight=4)
    assert sync(ledger, "b", WORKER_TIMEOUT_S - 1).slots == 0
    assert sync(ledger, "b", WORKER_TIMEOUT_S).slots == 4
    assert state(ledger, WORKER_TIMEOUT_S).in_flight == 0


def test_refusals_of_two_workers_in_one_burst_are_one_cut(ledger: Ledger) -> None:
    for owner in "aba":
        sync(ledger, owner, 0, start=12)
    assert sync(ledger, "b", 0.1, in_flight=6, start=12).slots == 6
    sync(ledger, "a", 0.5, in_flight=6, start=12, refusals=(at(0.4),), refused_of=6, rest_s=2)
    assert state(ledger, 0.5) == ConcurrencyState(in_flight=12, limit=11, ceiling=11)
    sync(ledger, "b", 0.6, in_flight=6, start=12, refusals=(at(0.4),), refused_of=6, rest_s=2)
    assert state(ledger, 0.6) == ConcurrencyState(in_flight=12, limit=10, ceiling=10)


def test_answers_raise_the_limit_and_a_later_run_starts_with_the_known_one(ledger: Ledger) -> None:
    sync(ledger, "a", 0)
    assert sync(ledger, "a", 1, in_flight=4, is_pressed=True, answers=[at(0)] * 4).slots == 6
    sync(ledger, "a", 2, in_flight=6, refusals=(at(1.5),), refused_of=6, rest_s=2)
    known = sync(ledger, "c", 1000, start=64)
    assert (known.slots, known.is_trying) == (5, False)
    trying = sync(ledger, "c", 1000 + FIRST_GAP_S, start=64, is_pressed=True)
    assert (trying.slots, trying.is_trying) == (6, True)
    assert sync(ledger, "d", 2000 + REMEMBERED_S).slots == 4


def test_rows_per_minute_stay_within_the_request_limit(ledger: Ledger) -> None:
    rate_limits = RateLimits(requests_per_minute=60)
    assert sync(ledger, "a", 0, rate_limits=rate_limits, asks=3).sends == 3
    assert sync(ledger, "b", 0, rate_limits=rate_limits, asks=3).sends == 1
    # An unsent row is counted back, and further requests of a row are counted.
    assert sync(ledger, "b", 0, rate_limits=rate_limits, unsent=1, asks=3).sends == 1
    assert sync(ledger, "a", 2, rate_limits=rate_limits, more_requests=5, asks=3).sends == 0
    assert sync(ledger, "a", 60, rate_limits=rate_limits, asks=9).sends == 4
    assert sync(ledger, "a", 60, asks=9).sends is None


def test_tokens_are_estimated_and_corrected(ledger: Ledger) -> None:
    rate_limits = RateLimits(tokens_per_minute=15_000)
    assert sync(ledger, "a", 0, rate_limits=rate_limits, asks=9, row_tokens=300).sends == 4
    assert sync(ledger, "a", 0, rate_limits=rate_limits, asks=9, row_tokens=300).sends == 0
    report = {"unsent": 2, "unsent_tokens": 300.0, "more_tokens": -300.0, "asks": 9, "row_tokens": 100.0}
    assert sync(ledger, "a", 0, rate_limits=rate_limits, **report).sends == 7


# Batches of a process


def run_spec(ledger: Ledger, **more: Any) -> RunSpec:
    defaults: dict[str, Any] = {
        "run_id": "run",
        "ledger_url": ledger.url,
        "spec": OpencodeSpec(binary=Path("opencode"), config={}, model_ref="fake/echo"),
        "backend": "server",
        "model_ref": "fake/echo",
        "unpriced": frozenset(),
        "system": None,
        "variant": None,
        "schema": None,
        "limits": RetryLimits(),
        "concurrency": 30,
        "gate_id": GATE,
        "start": 4,
    }
    return RunSpec(**(defaults | more))


def used(tokens: int) -> AttemptRecord:
    step = Step(
        step_id="p",
        session_id="s",
        message_id="m",
        model_ref="fake/echo",
        agent="a",
        usage=Usage(output_tokens=tokens),
        cost_source="unpriced",
        finish_reason="stop",
        ended_at=None,
    )
    return AttemptRecord(sessions=[Session(session_id="s", parent_id=None, messages=[], steps=[step])])


def test_batches_of_a_process_divide_its_share(ledger: Ledger) -> None:
    async def work() -> None:
        began = datetime.now(UTC)
        one, two = Limiter(run_spec(ledger), ledger, "worker"), Limiter(run_spec(ledger), ledger, "worker")
        await one.join()
        await two.join()
        # A batch that wants fewer rows leaves its part to the other.
        assert two.slots(9, until=None, now=began, at_most=1) == 1
        assert one.slots(9, until=None, now=began, at_most=30) == 3
        assert two.slots(9, until=None, now=began, at_most=30) == 2
        for row in "ab":
            one.started(row, "prompt")
        assert one.slots(9, until=None, now=began, at_most=30) == 2
        two.started("c", "prompt")
        assert two.slots(0, until=None, now=began, at_most=30) == 1
        assert one.slots(9, until=None, now=began, at_most=30) == 3
        two.slots(9, until=None, now=began, at_most=30)
        await one.leave()
        assert two.slots(9, until=None, now=began, at_most=30) == 4
        await two.leave()

    asyncio.run(work())


def test_a_refusal_is_reported_at_once(ledger: Ledger) -> None:
    async def work() -> None:
        began = datetime.now(UTC)
        limiter = Limiter(run_spec(ledger, start=10), ledger, "worker")
        await limiter.join()
        for number in range(limiter.slots(30, until=None, now=began, at_most=30)):
            limiter.started(str(number), "prompt")
        error = errors.RateLimitError("n", began)
        await limiter.ended("9", "prompt", error, datetime.now(UTC), AttemptRecord())
        limiter.gone("9")
        found = ledger.concurrency.get(GATE, now=datetime.now(UTC))
        assert found == ConcurrencyState(in_flight=10, limit=9, ceiling=9)
        assert limiter.slots(30, until=None, now=began, at_most=30) == 9
        await limiter.leave()

    asyncio.run(work())


def test_rate_limits_hold_rows_back(ledger: Ledger) -> None:
    async def work() -> None:
        began = datetime.now(UTC)
        limiter = Limiter(
            run_spec(ledger, start=10, rate_limits=RateLimits(requests_per_minute=30)), ledger, "worker"
        )
        await limiter.join()
        limiter.slots(30, until=None, now=began, at_most=30)
        await limiter.worker.sync_concurrency()
        assert limiter.slots(30, until=None, now=began, at_most=30) == 2
        limiter.started("a", "prompt")
        limiter.started("b", "prompt")
        await limiter.ended("a", "prompt", None, began, used(700))
        limiter.gone("a")
        assert limiter.slots(30, until=None, now=began, at_most=30) == 1
        # A row that was not sent, since its gate was closed, leaves its request to another row.
        limiter.gone("b")
        await limiter.worker.sync_concurrency()
        assert limiter.slots(30, until=None, now=began, at_most=30) == 1
        await limiter.leave()

    asyncio.run(work())


def test_which_errors_are_refusals_and_which_are_answers() -> None:
    busy = errors.ServerError("n")
    busy.is_overload = True
    assert [is_refusal(error) for error in (errors.RateLimitError("n", NOW), busy)] == [True, True]
    others = (None, errors.ServerError("n"), errors.MaxOutputTokensError("n"), errors.BillingError("n"))
    assert [is_refusal(error) for error in others] == [False] * 4
    assert [is_answer(error) for error in others] == [True, False, True, False]
