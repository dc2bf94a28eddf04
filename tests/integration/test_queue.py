"""Claims of rows and the end of many rows at once, on SQLite and PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from attempts import finished, wait

from opencode_tasks.domain.records import (
    Answer,
    AttemptRecord,
    CostSource,
    InnerRetry,
    RowInput,
    Session,
    Step,
    Usage,
)
from opencode_tasks.errors import OpenCodeError, RateLimitError, ServerError
from opencode_tasks.ledger import ClaimedRow, ClaimRequest, ClaimResult, EndedAttempt, GateObservation, Ledger
from opencode_tasks.system.process_identity import at_work, lease_owner, machine_id

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
GATE = "p/m#0"


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def create_run(ledger: Ledger, run_id: str, keys: Sequence[str], **more: Any) -> None:
    defaults: dict[str, Any] = {"refresh": False, "now": NOW}
    ledger.runs.create(
        run_id=run_id,
        parameters={},
        model_ref="p/m",
        backend="server",
        opencode_version="1.0",
        deployment=None,
        flow_run_id=None,
        input_fingerprint="f",
        row_count=len(keys),
        **(defaults | more),
    )
    rows = [RowInput(row_id=f"r{i}", position=i, row_key=key, prompt=f"p{i}") for i, key in enumerate(keys)]
    ledger.rows.add(run_id, rows)
    ledger.runs.ready(run_id)


def claim(
    ledger: Ledger, run_id: str, limit: int, *, owner: str = "w", now: datetime = NOW, **more: Any
) -> ClaimResult:
    defaults: dict[str, Any] = {
        "node_id": "n",
        "host": "h",
        "backend": "server",
        "data_dir": "/d",
        "lease_s": 60.0,
    }
    request = ClaimRequest(
        run_id=run_id, owner=owner, gate_id=GATE, limit=limit, now=now, **(defaults | more)
    )
    return ledger.queue.claim(request)


def ids(claim_result: ClaimResult) -> list[str]:
    return [claimed.row.row_id for claimed in claim_result.rows]


def step(session_id: str, number: int, cost: int | None, source: CostSource, **tokens: int | None) -> Step:
    return Step(
        step_id=f"prt_{number}",
        session_id=session_id,
        message_id="msg",
        model_ref="p/m",
        agent="a",
        usage=Usage(**{"input_tokens": 10, "output_tokens": 5, **tokens}, cost_pico=cost),
        cost_source=source,
        finish_reason="stop",
        ended_at=NOW,
    )


def record(session_id: str, *steps: Step, known: bool = True, retries: int = 0) -> AttemptRecord:
    messages = [{"info": {"role": "assistant"}, "parts": [{"text": "é\0"}]}]
    root = Session(session_id=session_id, parent_id=None, messages=messages, steps=steps)
    child = Session(session_id=f"{session_id}c", parent_id=session_id, messages=[], steps=[])
    return AttemptRecord(
        session_id=session_id,
        sessions=[root, child],
        inner_retries=[
            InnerRetry(session_id=session_id, number=n, message="slow", next_at=at(n)) for n in range(retries)
        ],
        usage_known=known,
        exit_code=0,
    )


def records(prefix: str) -> list[AttemptRecord]:
    """The kinds of usage that a completed row can have."""
    one, two, three, four = (f"{prefix}{n}" for n in range(4))
    return [
        record(one, step(one, 1, 7, "reported"), step(one, 2, 5, "computed", reasoning_tokens=3), retries=2),
        record(two, step(two, 1, None, "unpriced", cache_read_tokens=None)),
        record(three, step(three, 1, 9, "reported"), known=False),
        record(four),
        AttemptRecord(session_id=f"{prefix}4", usage_known=False, exit_code=-1),
    ]


def answer(found: AttemptRecord, number: int) -> Answer:
    value = {"label": number} if number % 2 else None
    return Answer(
        text=f"yes {number}\0",
        structured=value,
        finish_reason="stop",
        turns=1,
        model_ref="p/m",
        attempt=found,
    )


def finished_row(claimed: ClaimedRow, found: Answer, now: datetime) -> EndedAttempt:
    return finished(claimed.lease, claimed.attempt_id, found, found.attempt, now=now)


def wait_until(
    ledger: Ledger,
    claimed: ClaimedRow,
    error: OpenCodeError,
    until: datetime,
    usage: AttemptRecord | None = None,
) -> None:
    found = usage or record("s")
    assert wait(ledger, claimed.lease, claimed.attempt_id, error, found, now=NOW, until=until)


def observation(run_id: str, claimed: ClaimedRow) -> GateObservation:
    return GateObservation(
        gate_id=GATE,
        model_ref="p/m",
        run_id=run_id,
        row_id=claimed.row.row_id,
        owner="w",
        started_at=NOW,
        error=None,
    )


def end(ledger: Ledger, run_id: str, claimed: ClaimedRow, number: int = 0, now: datetime = NOW) -> bool:
    ended = finished_row(claimed, answer(record(f"{run_id}{claimed.row.row_id}"), number), now)
    return ledger.queue.end([ended], [observation(run_id, claimed)])[0]


def contents(ledger: Ledger, run_id: str, prefix: str) -> Any:
    """Everything that the ledger has about a run, without the names of the run."""

    def without_names(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        names = ("run_id", "attempt_id", "row_key")
        kept = [{key: value for key, value in line.items() if key not in names} for line in lines]
        texts = ("session_id", "parent_id")
        return [
            {
                key: value.removeprefix(prefix) if key in texts and value else value
                for key, value in line.items()
            }
            for line in kept
        ]

    details = [ledger.results.row(run_id, f"r{n}") for n in range(5)]
    return [
        {
            name: without_names([part] if isinstance(part, dict) else part)
            for name, part in (row or {}).items()
        }
        for row in details
    ]


def test_rows_finished_in_bulk_are_written_like_rows_finished_one_at_a_time(ledger: Ledger) -> None:
    for run_id in ("many", "each"):
        create_run(ledger, run_id, [f"{run_id}{n}" for n in range(5)], max_cost_pico=1000)
        claimed = claim(ledger, run_id, 5, max_cost_of=lambda row: 10 + int(row.prompt[1:])).rows
        answers = [answer(found, number) for number, found in enumerate(records(run_id))]
        ended = [finished_row(one, found, at(3)) for one, found in zip(claimed, answers, strict=True)]
        if run_id == "many":
            assert ledger.queue.end(ended, [observation(run_id, one) for one in claimed]) == [True] * 5
        else:
            assert [ledger.queue.end([one]) for one in ended] == [[True]] * 5
    assert contents(ledger, "many", "many") == contents(ledger, "each", "each")
    assert ledger.budgets.get("many") == ledger.budgets.get("each")
    assert ledger.budgets.get("many").spent_pico == 7 + 5 + 9
    assert ledger.runs.progress("many") == ledger.runs.progress("each")
    assert [row["status"] for row in ledger.results.outcomes("many")] == ["completed"] * 5
    assert ledger.queue.owners("many", now=NOW) == []


def test_finishing_rows_twice_changes_nothing(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a", "b"])
    claimed = claim(ledger, "r", 2).rows
    ended = [finished_row(one, answer(record(one.row.row_id), 1), NOW) for one in claimed]
    observations = [observation("r", one) for one in claimed]
    assert ledger.queue.end(ended, observations) == [True, True]
    before = ledger.results.outcomes("r"), ledger.results.attempts("r"), ledger.results.usage("r")
    assert ledger.queue.end(ended, observations) == [True, True]
    assert (ledger.results.outcomes("r"), ledger.results.attempts("r"), ledger.results.usage("r")) == before


def test_a_lost_lease_is_reported_and_the_attempt_is_recorded(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a"])
    first = claim(ledger, "r", 1, owner="one", lease_s=5.0).rows[0]
    second = claim(ledger, "r", 1, owner="two", now=at(6)).rows[0]
    assert (first.number, second.number, second.row.attempts) == (1, 2, 1)
    assert end(ledger, "r", first, now=at(7)) is False
    assert ledger.results.outcomes("r")[0]["status"] == "open"
    assert end(ledger, "r", second, now=at(8)) is True
    assert [one["status"] for one in ledger.results.attempts("r")] == ["completed", "completed"]
    assert ledger.results.outcomes("r")[0]["attempts"] == 2


def test_the_lease_of_a_batch_at_work_in_this_process_does_not_expire(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a"])
    with at_work(owner := lease_owner("batch")):
        claim(ledger, "r", 1, owner=owner)
        for seconds in (61, 200, 400):
            assert claim(ledger, "r", 1, owner="other", now=at(seconds)) == ClaimResult()
            assert claim(ledger, "r", 1, owner=owner, now=at(seconds)) == ClaimResult()
    assert len(claim(ledger, "r", 1, owner="other", now=at(600)).rows) == 1


def test_a_process_that_may_have_been_stopped_gets_one_more_lease_time(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a"])
    # The start of a process as earlier versions wrote it.
    claim(ledger, "r", 1, owner=f"{machine_id()}/{os.getppid()}/1.0/batch", lease_s=60)
    assert claim(ledger, "r", 1, owner="other", now=at(61), lease_s=60) == ClaimResult()
    assert claim(ledger, "r", 1, owner="other", now=at(120), lease_s=60) == ClaimResult()
    assert len(claim(ledger, "r", 1, owner="other", now=at(122), lease_s=60).rows) == 1


def test_rows_are_claimed_once_and_in_order(ledger: Ledger) -> None:
    create_run(ledger, "r", [f"k{n}" for n in range(40)])
    with ThreadPoolExecutor(4) as threads:
        claims = list(threads.map(lambda n: ids(claim(ledger, "r", 10, owner=f"w{n}")), range(4)))
    # A claim that meets another one on PostgreSQL can return fewer rows than there are.
    claims.append(ids(claim(ledger, "r", 40, owner="last")))
    assert sorted(int(row_id[1:]) for one in claims for row_id in one) == list(range(40))
    assert all(one == sorted(one, key=lambda row_id: int(row_id[1:])) for one in claims)
    assert claim(ledger, "r", 10, owner="late") == ClaimResult()


def test_equal_rows_are_sent_once(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a", "a", "b", "a"])
    claimed = claim(ledger, "r", 4).rows
    assert [one.row.row_id for one in claimed] == ["r0", "r2"]
    assert claim(ledger, "r", 4) == ClaimResult()
    assert end(ledger, "r", claimed[0])
    assert [(row["status"], row["reused"]) for row in ledger.results.outcomes("r")] == [
        ("completed", False),
        ("completed", True),
        ("open", False),
        ("completed", True),
    ]


def test_a_claim_reuses_an_existing_answer(ledger: Ledger) -> None:
    create_run(ledger, "first", ["a"])
    create_run(ledger, "second", ["a", "b"])
    create_run(ledger, "fresh", ["a"], refresh=True, now=at(10))
    assert end(ledger, "first", claim(ledger, "first", 1).rows[0], 1)
    claim_result = claim(ledger, "second", 5)
    assert (ids(claim_result), claim_result.finished) == (["r1"], 1)
    assert [row["reused"] for row in ledger.results.outcomes("second")] == [True, False]
    assert ids(claim(ledger, "fresh", 5, now=at(11))) == ["r0"]


def test_a_row_that_waits_is_not_ready_before_its_time(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a", "b"])
    claimed = claim(ledger, "r", 1).rows[0]
    error = ServerError("n", 0, "busy", 30.0)
    wait_until(ledger, claimed, error, at(30))
    assert ids(claim(ledger, "r", 5, now=at(1))) == ["r1"]
    state = ledger.queue.state("r", GATE, now=at(1), limit=9)
    assert state.first_wait is not None
    assert (state.ready, state.has_leased) == (0, True)
    assert (state.first_wait.until, state.first_wait.error_type) == (at(30), "server_error")
    assert (state.waits_at_most(28), state.waits_at_most(29)) == (False, True)
    assert ledger.queue.state("r", GATE, now=at(31), limit=9).ready == 1
    again = claim(ledger, "r", 5, now=at(31)).rows[0]
    assert (again.row.used, again.number, again.row.error_type) == (1, 2, "server_error")


def test_untried_rows_come_first_on_request(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a", "b"])
    claimed = claim(ledger, "r", 1).rows[0]
    error = ServerError("n", 0, "busy", 1.0)
    wait_until(ledger, claimed, error, at(1))
    assert ids(claim(ledger, "r", 1, now=at(2), prefer_untried=True)) == ["r1"]
    assert ids(claim(ledger, "r", 1, now=at(2), prefer_untried=True)) == ["r0"]


def test_a_gate_lets_one_row_pass_after_its_reset_time(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a", "b", "c"])
    claimed = claim(ledger, "r", 1).rows[0]
    error = RateLimitError("n", at(20), "slow down")
    limited = GateObservation(
        gate_id=GATE,
        model_ref="p/m",
        run_id="r",
        row_id="r0",
        owner="w",
        started_at=NOW,
        error=error,
    )
    until: dict[str, Any] = {"limit_end": lambda _: at(20), "outage_end": lambda _: at(20)}
    ledger.gates.record(limited, now=at(1), breaker_failures=10, **until)
    wait_until(ledger, claimed, error, at(20))
    assert claim(ledger, "r", 5, now=at(2)) == ClaimResult()
    gate = ledger.queue.state("r", GATE, now=at(2)).gate
    assert gate is not None
    assert (gate.until, gate.error_type) == (at(20), "rate_limit")
    # The row with the rate limit is not the first to be sent.
    probe = claim(ledger, "r", 5, now=at(20.5), prefer_untried=True).rows
    assert [one.row.row_id for one in probe] == ["r1"]
    assert claim(ledger, "r", 5, now=at(20.6), owner="other") == ClaimResult()
    assert end(ledger, "r", probe[0], now=at(21))
    assert ids(claim(ledger, "r", 5, now=at(25))) == ["r0", "r2"]


def test_a_claim_stops_at_the_budget(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a", "b", "c"], max_cost_pico=25)
    claim_result = claim(ledger, "r", 3, max_cost_of=lambda _: 10)
    assert ids(claim_result) == ["r0", "r1"]
    assert claim(ledger, "r", 3, max_cost_of=lambda _: 10) == ClaimResult()
    # The rows in flight may cost less than is reserved for them.
    assert ledger.budgets.get("r").refused_pico is None
    assert ledger.budgets.get("r").reserved_pico == 20
    for claimed in claim_result.rows:
        usage = record(claimed.row.row_id, step(claimed.row.row_id, 1, 10, "reported"))
        ended = finished_row(claimed, answer(usage, 0), NOW)
        assert ledger.queue.end([ended], [observation("r", claimed)]) == [True]
    assert claim(ledger, "r", 3, max_cost_of=lambda _: 10) == ClaimResult()
    assert ledger.budgets.get("r").refused_pico == 10
    assert "the next row may cost up to" in str(ledger.queue.state("r", GATE, now=NOW).budget_message)


def test_a_row_at_its_cost_limit_fails(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a", "b"])
    claimed = claim(ledger, "r", 1, max_row_pico=9).rows[0]
    assert claimed.remaining_pico == 9
    error = ServerError("n", 0, "broke off", 1.0)
    usage = record("s", step("s", 1, 9, "reported"))
    wait_until(ledger, claimed, error, at(1), usage)
    claim_result = claim(
        ledger,
        "r",
        2,
        now=at(2),
        max_row_pico=9,
        row_cost_error=lambda spent: ("budget_exceeded", f"{spent}"),
    )
    assert (ids(claim_result), claim_result.finished) == (["r1"], 1)
    failed = ledger.results.outcomes("r")[0]
    assert (failed["status"], failed["error_type"], failed["error_message"]) == (
        "failed",
        "budget_exceeded",
        "9",
    )


def test_a_row_whose_worker_died_comes_last_and_alone(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a", "b", "c"])
    claim(ledger, "r", 2, owner="machine/1/2/dead")
    assert ledger.attempts.mark_crashed("r", "dead") == ["r0", "r1"]
    assert ledger.attempts.mark_crashed("r", "other") == []
    for key in ("a", "b"):
        ledger.queue.break_lease(key, "machine/1/2/dead")
    assert ids(claim(ledger, "r", 5, is_idle=False)) == ["r2"]
    assert ids(claim(ledger, "r", 5, is_idle=False)) == []
    assert ids(claim(ledger, "r", 5, is_idle=True)) == ["r0"]
