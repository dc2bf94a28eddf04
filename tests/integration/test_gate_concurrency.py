"""Concurrency at a gate, on SQLite and PostgreSQL: allocations, cuts, rate limits, and batches."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opencode_tasks import errors
from opencode_tasks.domain.concurrency import FIRST_GAP_S, MAX_AGE_S
from opencode_tasks.domain.policy import RetryLimits
from opencode_tasks.domain.rate_limits import RateLimits
from opencode_tasks.domain.records import AttemptRecord, Session, Step, Usage
from opencode_tasks.engine.limiter import Limiter
from opencode_tasks.ledger import Allocation, ConcurrencyRequest, ConcurrencyState, Ledger
from opencode_tasks.ledger.concurrency import WORKER_TIMEOUT_S
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.plan.run_spec import RunSpec

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GATE = "fake/echo#0123"


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def sync_concurrency(ledger: Ledger, owner: str, seconds: float, **fields: Any) -> Allocation:
    usual: dict[str, Any] = {"in_flight": 0, "wants": 30, "start": 4}
    return ledger.concurrency.sync(GATE, owner, ConcurrencyRequest(**(usual | fields)), now=at(seconds))


def now(ledger: Ledger, seconds: float) -> ConcurrencyState:
    found = ledger.concurrency.get(GATE, now=at(seconds))
    assert found is not None
    return found


def test_a_gate_without_rows_has_no_concurrency_state(ledger: Ledger) -> None:
    assert ledger.concurrency.get(GATE, now=NOW) is None


def test_an_allocation_lasts_until_the_next_synchronization(ledger: Ledger) -> None:
    assert sync_concurrency(ledger, "a", 0).slots == 4
    assert sync_concurrency(ledger, "b", 0.5).slots == 0
    assert sync_concurrency(ledger, "a", 1, in_flight=4).slots == 2
    # Two rows of the first worker are still in flight.
    assert sync_concurrency(ledger, "b", 1.5).slots == 0
    assert sync_concurrency(ledger, "a", 2, in_flight=2).slots == 2
    assert sync_concurrency(ledger, "b", 2.5).slots == 2
    assert now(ledger, 2.5) == ConcurrencyState(in_flight=2, limit=4, ceiling=None)


def test_a_worker_without_rows_leaves_all_slots_to_the_others(ledger: Ledger) -> None:
    sync_concurrency(ledger, "a", 0)
    sync_concurrency(ledger, "a", 1, wants=0)
    assert sync_concurrency(ledger, "b", 1).slots == 4


def test_a_worker_that_leaves_returns_its_slots_at_once(ledger: Ledger) -> None:
    sync_concurrency(ledger, "a", 0, in_flight=3)
    assert sync_concurrency(ledger, "b", 1).slots == 0
    sync_concurrency(ledger, "a", 1, wants=0, is_leaving=True)
    assert sync_concurrency(ledger, "b", 1).slots == 4
    assert now(ledger, 1).in_flight == 0


def test_the_allocation_of_a_dead_worker_expires(ledger: Ledger) -> None:
    sync_concurrency(ledger, "a", 0, in_flight=4)
    assert sync_concurrency(ledger, "b", WORKER_TIMEOUT_S - 1).slots == 0
    assert sync_concurrency(ledger, "b", WORKER_TIMEOUT_S).slots == 4
    assert now(ledger, WORKER_TIMEOUT_S).in_flight == 0


def test_the_limit_grows_and_a_burst_of_refusals_cuts_it_once(ledger: Ledger) -> None:
    for owner in "aba":
        sync_concurrency(ledger, owner, 0, start=12)
    assert sync_concurrency(ledger, "b", 0.1, in_flight=6, start=12).slots == 6
    sync_concurrency(ledger, "a", 0.5, in_flight=6, start=12, refusals=(at(0.4),), refused_of=6, rest_s=2)
    assert now(ledger, 0.5) == ConcurrencyState(in_flight=12, limit=11, ceiling=11)
    sync_concurrency(ledger, "b", 0.6, in_flight=6, start=12, refusals=(at(0.4),), refused_of=6, rest_s=2)
    assert now(ledger, 0.6) == ConcurrencyState(in_flight=12, limit=10, ceiling=10)


def test_answers_raise_the_limit_and_a_later_run_starts_with_it(ledger: Ledger) -> None:
    sync_concurrency(ledger, "a", 0)
    assert sync_concurrency(ledger, "a", 1, in_flight=4, is_pressed=True, answers=[at(0)] * 4).slots == 6
    sync_concurrency(ledger, "a", 2, in_flight=6, refusals=(at(1.5),), refused_of=6, rest_s=2)
    knows = sync_concurrency(ledger, "c", 1000, start=64)
    assert (knows.slots, knows.is_trying) == (5, False)
    tries = sync_concurrency(ledger, "c", 1000 + FIRST_GAP_S, start=64, is_pressed=True)
    assert (tries.slots, tries.is_trying) == (6, True)
    assert sync_concurrency(ledger, "d", 2000 + MAX_AGE_S).slots == 4


def test_no_minute_has_more_requests_than_the_rate_limit(ledger: Ledger) -> None:
    rate_limits = RateLimits(requests_per_minute=60)
    assert sync_concurrency(ledger, "a", 0, rate_limits=rate_limits, asks=3).sends == 3
    assert sync_concurrency(ledger, "b", 0, rate_limits=rate_limits, asks=3).sends == 1
    # Unsent requests are returned, and requests beyond one per row are subtracted.
    assert sync_concurrency(ledger, "b", 0, rate_limits=rate_limits, unsent=1, asks=3).sends == 1
    assert sync_concurrency(ledger, "a", 2, rate_limits=rate_limits, more_requests=5, asks=3).sends == 0
    assert sync_concurrency(ledger, "a", 60, rate_limits=rate_limits, asks=9).sends == 4
    assert sync_concurrency(ledger, "a", 60, asks=9).sends is None


def test_tokens_are_reserved_and_corrected(ledger: Ledger) -> None:
    rate_limits = RateLimits(tokens_per_minute=15_000)
    assert sync_concurrency(ledger, "a", 0, rate_limits=rate_limits, asks=9, row_tokens=300).sends == 4
    assert sync_concurrency(ledger, "a", 0, rate_limits=rate_limits, asks=9, row_tokens=300).sends == 0
    unsent = {"unsent": 2, "unsent_tokens": 300.0, "more_tokens": -300.0, "asks": 9, "row_tokens": 100.0}
    assert sync_concurrency(ledger, "a", 0, rate_limits=rate_limits, **unsent).sends == 7


# Batches


def run_spec(ledger: Ledger, **more: Any) -> RunSpec:
    defaults: dict[str, Any] = {
        "run_id": "run",
        "driver_id": "driver",
        "ledger_url": ledger.url,
        "spec": OpencodeSpec(binary=Path("opencode"), config={}, model_ref="fake/echo"),
        "backend": "server",
        "model_ref": "fake/echo",
        "unpriced": frozenset(),
        "system": None,
        "variant": None,
        "answer_format": None,
        "limits": RetryLimits(),
        "concurrency": 30,
        "gate_id": GATE,
        "start": 4,
    }
    return RunSpec(**(defaults | more))


def record(tokens: int) -> AttemptRecord:
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


def test_two_batches_divide_the_gate_and_the_last_gets_all_of_it(ledger: Ledger) -> None:
    async def work() -> None:
        now = datetime.now(UTC)
        one, two = Limiter(run_spec(ledger), ledger, "one"), Limiter(run_spec(ledger), ledger, "two")
        await one.join()
        assert one.slots(9, until=None, now=now) == 4
        await two.join()
        assert two.slots(9, until=None, now=now) == 0
        one.add("a", "prompt")
        await one.sync()
        await two.sync()
        assert (one.slots(9, until=None, now=now), two.slots(9, until=None, now=now)) == (2, 2)
        # A batch without a row that is ready soon keeps only the slots of its rows in flight.
        assert one.slots(0, until=None, now=now) == 1
        await one.sync()
        await two.sync()
        assert two.slots(9, until=None, now=now) == 3
        one.remove("a")
        await one.leave()
        await two.sync()
        assert two.slots(9, until=None, now=now) == 4
        await two.leave()

    asyncio.run(work())


def test_leaving_during_an_exchange_returns_the_slots(ledger: Ledger) -> None:
    async def work() -> None:
        limiter = Limiter(run_spec(ledger), ledger, "one")
        await limiter.join()
        exchange = asyncio.create_task(limiter.sync())
        await asyncio.sleep(0)
        await limiter.leave()
        await exchange
        assert (
            ledger.concurrency.sync(GATE, "two", ConcurrencyRequest(in_flight=0, wants=30, start=4)).slots
            == 4
        )

    asyncio.run(work())


def test_a_refusal_is_synchronized_at_once(ledger: Ledger) -> None:
    async def work() -> None:
        now = datetime.now(UTC)
        limiter = Limiter(run_spec(ledger, start=10), ledger, "worker")
        await limiter.join()
        for number in range(limiter.slots(30, until=None, now=now)):
            limiter.add(str(number), "prompt")
        error = errors.RateLimitError("n", now)
        await limiter.observe("9", "prompt", error, datetime.now(UTC), AttemptRecord())
        limiter.remove("9")
        found = ledger.concurrency.get(GATE, now=datetime.now(UTC))
        assert found == ConcurrencyState(in_flight=10, limit=9, ceiling=9)
        assert limiter.slots(30, until=None, now=now) == 9
        await limiter.leave()

    asyncio.run(work())


def test_rate_limits_hold_rows_back(ledger: Ledger) -> None:
    async def work() -> None:
        now = datetime.now(UTC)
        limiter = Limiter(
            run_spec(ledger, start=10, rate_limits=RateLimits(requests_per_minute=30)), ledger, "worker"
        )
        await limiter.join()
        limiter.slots(30, until=None, now=now)
        await limiter.sync()
        assert limiter.slots(30, until=None, now=now) == 2
        limiter.add("a", "prompt")
        limiter.add("b", "prompt")
        await limiter.observe("a", "prompt", None, now, record(700))
        limiter.remove("a")
        assert limiter.slots(30, until=None, now=now) == 1
        # A row that was not sent returns its request for another row.
        limiter.remove("b")
        await limiter.sync()
        assert limiter.slots(30, until=None, now=now) == 1
        await limiter.leave()

    asyncio.run(work())
