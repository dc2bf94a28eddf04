"""Pulling rows and ending many at once, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

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
from opencode_tasks.errors import RateLimitError, ServerError
from opencode_tasks.ledger import (
    ClaimedRow,
    ClaimRequest,
    ClaimResult,
    Finish,
    GateObservation,
    Ledger,
    answered,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
GATE = "p/m#0"


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def begin_run(ledger: Ledger, run_id: str, keys: Sequence[str], **more: Any) -> None:
    usual: dict[str, Any] = {"refresh": False, "now": NOW}
    ledger.create_run(
        run_id=run_id,
        parameters={},
        model_ref="p/m",
        backend="server",
        opencode_version="1.0",
        deployment=None,
        flow_run_id=None,
        input_fingerprint="f",
        row_count=len(keys),
        **(usual | more),
    )
    rows = [RowInput(row_id=f"r{i}", position=i, row_key=key, prompt=f"p{i}") for i, key in enumerate(keys)]
    ledger.add_rows(run_id, rows)


def claim(
    ledger: Ledger, run_id: str, most: int, *, owner: str = "w", now: datetime = NOW, **more: Any
) -> ClaimResult:
    usual: dict[str, Any] = {
        "node_id": "n",
        "host": "h",
        "backend": "server",
        "data_dir": "/d",
        "lease_s": 60.0,
    }
    asked = ClaimRequest(run_id=run_id, owner=owner, gate_id=GATE, most=most, now=now, **(usual | more))
    return ledger.claim(asked)


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
    said = [{"info": {"role": "assistant"}, "parts": [{"text": "é\0"}]}]
    root = Session(session_id=session_id, parent_id=None, messages=said, steps=steps)
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
    """Whatever an answered row can have bought."""
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


def finish_of(run_id: str, claimed: ClaimedRow, found: Answer, now: datetime) -> Finish:
    return Finish(
        lease=claimed.lease,
        attempt_id=claimed.attempt_id,
        record=found.attempt,
        run_id=run_id,
        row_id=claimed.row.row_id,
        outcome=answered(found),
        now=now,
    )


def report_of(run_id: str, claimed: ClaimedRow) -> GateObservation:
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
    ended = finish_of(run_id, claimed, answer(record(f"{run_id}{claimed.row.row_id}"), number), now)
    return ledger.finish_answered([ended], [report_of(run_id, claimed)])[0]


def all_of(ledger: Ledger, run_id: str, prefix: str) -> Any:
    """All that a run left, without what names it."""

    def bare(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        named = ("run_id", "attempt_id", "row_key")
        told = [{key: value for key, value in line.items() if key not in named} for line in lines]
        texts = ("session_id", "parent_id")
        return [
            {
                key: value.removeprefix(prefix) if key in texts and value else value
                for key, value in line.items()
            }
            for line in told
        ]

    stories = [ledger.row_story(run_id, f"r{n}") for n in range(5)]
    return [
        {name: bare([part] if isinstance(part, dict) else part) for name, part in (story or {}).items()}
        for story in stories
    ]


def test_rows_that_end_together_are_written_as_one_by_one(ledger: Ledger) -> None:
    for run_id in ("many", "each"):
        begin_run(ledger, run_id, [f"{run_id}{n}" for n in range(5)], max_cost_pico=1000)
        claimed = claim(ledger, run_id, 5, may_cost=lambda prompt: 10 + int(prompt[1:])).rows
        told = [answer(found, number) for number, found in enumerate(records(run_id))]
        ended = [finish_of(run_id, one, found, at(3)) for one, found in zip(claimed, told, strict=True)]
        if run_id == "many":
            assert ledger.finish_answered(ended, [report_of(run_id, one) for one in claimed]) == [True] * 5
        else:
            for one, found in zip(claimed, told, strict=True):
                ledger.finish_row(
                    lease=one.lease,
                    attempt_id=one.attempt_id,
                    record=found.attempt,
                    run_id=run_id,
                    row_id=one.row.row_id,
                    answer=found,
                    error=None,
                    now=at(3),
                )
    assert all_of(ledger, "many", "many") == all_of(ledger, "each", "each")
    assert ledger.budget("many") == ledger.budget("each")
    assert ledger.budget("many").spent_pico == 7 + 5 + 9
    assert ledger.progress("many") == ledger.progress("each")
    assert [row["status"] for row in ledger.outcomes("many")] == ["completed"] * 5
    assert ledger.lease_owners("many", now=NOW) == []


def test_to_end_rows_twice_changes_nothing(ledger: Ledger) -> None:
    begin_run(ledger, "r", ["a", "b"])
    claimed = claim(ledger, "r", 2).rows
    ended = [finish_of("r", one, answer(record(one.row.row_id), 1), NOW) for one in claimed]
    reports = [report_of("r", one) for one in claimed]
    assert ledger.finish_answered(ended, reports) == [True, True]
    before = ledger.outcomes("r"), ledger.attempts("r"), ledger.usage("r")
    assert ledger.finish_answered(ended, reports) == [True, True]
    assert (ledger.outcomes("r"), ledger.attempts("r"), ledger.usage("r")) == before


def test_a_lost_lease_is_told_and_the_attempt_kept(ledger: Ledger) -> None:
    begin_run(ledger, "r", ["a"])
    first = claim(ledger, "r", 1, owner="one", lease_s=5.0).rows[0]
    second = claim(ledger, "r", 1, owner="two", now=at(6)).rows[0]
    assert (first.number, second.number, second.row.attempts) == (1, 2, 1)
    assert end(ledger, "r", first, now=at(7)) is False
    assert ledger.outcomes("r")[0]["status"] == "open"
    assert end(ledger, "r", second, now=at(8)) is True
    assert [one["status"] for one in ledger.attempts("r")] == ["completed", "completed"]
    assert ledger.outcomes("r")[0]["attempts"] == 2


def test_rows_are_pulled_in_order_and_once(ledger: Ledger) -> None:
    begin_run(ledger, "r", [f"k{n}" for n in range(40)])
    with ThreadPoolExecutor(4) as threads:
        pulls = list(threads.map(lambda n: ids(claim(ledger, "r", 10, owner=f"w{n}")), range(4)))
    assert sorted(int(row_id[1:]) for some in pulls for row_id in some) == list(range(40))
    assert all(one == sorted(one, key=lambda row_id: int(row_id[1:])) for one in pulls)
    assert claim(ledger, "r", 10, owner="late").is_empty


def test_equal_rows_are_bought_once(ledger: Ledger) -> None:
    begin_run(ledger, "r", ["a", "a", "b", "a"])
    claimed = claim(ledger, "r", 4).rows
    assert [one.row.row_id for one in claimed] == ["r0", "r2"]
    assert claim(ledger, "r", 4).is_empty
    assert end(ledger, "r", claimed[0])
    assert [(row["status"], row["reused"]) for row in ledger.outcomes("r")] == [
        ("completed", False),
        ("completed", True),
        ("open", False),
        ("completed", True),
    ]


def test_an_answer_that_is_there_is_taken_over(ledger: Ledger) -> None:
    begin_run(ledger, "first", ["a"])
    begin_run(ledger, "second", ["a", "b"])
    begin_run(ledger, "fresh", ["a"], refresh=True, now=at(10))
    assert end(ledger, "first", claim(ledger, "first", 1).rows[0], 1)
    claim_result = claim(ledger, "second", 5)
    assert (ids(claim_result), claim_result.settled) == (["r1"], 1)
    assert [row["reused"] for row in ledger.outcomes("second")] == [True, False]
    assert ids(claim(ledger, "fresh", 5, now=at(11))) == ["r0"]


def test_a_row_waits_for_its_moment(ledger: Ledger) -> None:
    begin_run(ledger, "r", ["a", "b"])
    claimed = claim(ledger, "r", 1).rows[0]
    error = ServerError("n", 0, "busy", 30.0)
    ledger.end_attempt(claimed.attempt_id, record=record("s"), error=error, now=NOW)
    ledger.wait_row(claimed.lease, run_id="r", row_id="r0", error=error, until=at(30))
    assert ids(claim(ledger, "r", 5, now=at(1))) == ["r1"]
    queue_state = ledger.queue_state("r", now=at(1), until=at(1), most=9)
    assert (queue_state.ready, queue_state.leased, queue_state.next_at, queue_state.error_type) == (
        0,
        True,
        at(30),
        "server_error",
    )
    assert ledger.queue_state("r", now=at(1), until=at(40), most=9).ready == 1
    again = claim(ledger, "r", 5, now=at(31)).rows[0]
    assert (again.row.used, again.number, again.row.error_type) == (1, 2, "server_error")


def test_untroubled_rows_go_first_where_that_is_asked(ledger: Ledger) -> None:
    begin_run(ledger, "r", ["a", "b"])
    claimed = claim(ledger, "r", 1).rows[0]
    error = ServerError("n", 0, "busy", 1.0)
    ledger.end_attempt(claimed.attempt_id, record=record("s"), error=error, now=NOW)
    ledger.wait_row(claimed.lease, run_id="r", row_id="r0", error=error, until=at(1))
    assert ids(claim(ledger, "r", 1, now=at(2), prefer_untried=True)) == ["r1"]
    assert ids(claim(ledger, "r", 1, now=at(2), prefer_untried=True)) == ["r0"]


def test_a_closed_gate_lets_one_row_pass_when_its_time_has_come(ledger: Ledger) -> None:
    begin_run(ledger, "r", ["a", "b", "c"])
    claimed = claim(ledger, "r", 1).rows[0]
    error = RateLimitError("n", at(20), "slow down")
    report = GateObservation(
        gate_id=GATE,
        model_ref="p/m",
        run_id="r",
        row_id="r0",
        owner="w",
        started_at=NOW,
        error=error,
    )
    until: dict[str, Any] = {"limit_end": lambda _: at(20), "outage_end": lambda _: at(20)}
    ledger.report(report, now=at(1), breaker_failures=10, **until)
    ledger.end_attempt(claimed.attempt_id, record=record("s"), error=error, now=NOW)
    ledger.wait_row(claimed.lease, run_id="r", row_id="r0", error=error, until=at(20))
    held = claim(ledger, "r", 5, now=at(2)).held
    assert held is not None
    assert (held.until, held.error_type) == (at(20), "rate_limit")
    # The row that was limited leaves the first try to another.
    probe = claim(ledger, "r", 5, now=at(20.5), prefer_untried=True).rows
    assert [one.row.row_id for one in probe] == ["r1"]
    waiting = claim(ledger, "r", 5, now=at(20.6), owner="other")
    assert waiting.held is not None
    assert not waiting.rows
    assert end(ledger, "r", probe[0], now=at(21))
    assert ids(claim(ledger, "r", 5, now=at(25))) == ["r0", "r2"]


def test_a_budget_lets_as_many_rows_pass_as_it_holds(ledger: Ledger) -> None:
    begin_run(ledger, "r", ["a", "b", "c"], max_cost_pico=25)
    claim_result = claim(ledger, "r", 3, may_cost=lambda _: 10)
    assert ids(claim_result) == ["r0", "r1"]
    assert claim_result.short is not None
    assert claim_result.short.in_flight
    assert ledger.budget("r").reserved_pico == 20
    for claimed in claim_result.rows:
        bought = record(claimed.row.row_id, step(claimed.row.row_id, 1, 10, "reported"))
        ended = finish_of("r", claimed, answer(bought, 0), NOW)
        assert ledger.finish_answered([ended], [report_of("r", claimed)]) == [True]
    refused = claim(ledger, "r", 3, may_cost=lambda _: 10)
    assert not refused.rows
    assert refused.short is not None
    assert not refused.short.in_flight
    assert ledger.budget("r").refused_pico == 10


def test_a_row_that_has_cost_all_it_may_fails(ledger: Ledger) -> None:
    begin_run(ledger, "r", ["a", "b"])
    claimed = claim(ledger, "r", 1, row_most_pico=9).rows[0]
    assert claimed.left_pico == 9
    error = ServerError("n", 0, "broke off", 1.0)
    bought = record("s", step("s", 1, 9, "reported"))
    ledger.end_attempt(claimed.attempt_id, record=bought, error=error, now=NOW)
    ledger.wait_row(claimed.lease, run_id="r", row_id="r0", error=error, until=at(1))
    claim_result = claim(
        ledger, "r", 2, now=at(2), row_most_pico=9, over_row_cap=lambda spent: ("budget_exceeded", f"{spent}")
    )
    assert (ids(claim_result), claim_result.settled) == (["r1"], 1)
    failed = ledger.outcomes("r")[0]
    assert (failed["status"], failed["error_type"], failed["error_message"]) == (
        "failed",
        "budget_exceeded",
        "9",
    )


def test_a_row_whose_worker_died_goes_last_and_alone(ledger: Ledger) -> None:
    begin_run(ledger, "r", ["a", "b", "c"])
    claim(ledger, "r", 2, owner="machine/1/2/dead")
    assert ledger.crashed_rows("r", "dead") == ["r0", "r1"]
    assert ledger.crashed_rows("r", "other") == []
    for key in ("a", "b"):
        ledger.break_lease(key, "machine/1/2/dead")
    assert ids(claim(ledger, "r", 5, is_idle=False)) == ["r2"]
    assert ids(claim(ledger, "r", 5, is_idle=False)) == []
    assert ids(claim(ledger, "r", 5, is_idle=True)) == ["r0"]
