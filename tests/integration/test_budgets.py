"""Caps on cost: of the whole run, reserved before a row is sent, and of one row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cluster import Desk, Ran
from prefect.client.orchestration import get_client
from rig import RARELY_CLI

from opencode_tasks.domain.max_cost import Price
from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Call, Reply

MODEL: Mapping[str, Any] = {"cost": {"input": 1, "output": 10}, "limit": {"context": 100_000, "output": 100}}
UNPRICED: Mapping[str, Any] = {"limit": {"context": 9000, "output": 100}}
PRICE = Price(input=10**12, output=10**13, max_output_tokens=100)
# What a row can cost: 100 output tokens, and at most 512 input tokens of prompt, system text and frame.
MAX_PICO = PRICE.max_cost(512 - 256)
ANSWER = Reply(text="fine", input_tokens=50, output_tokens=80)
ANSWER_PICO = 50 * 10**6 + 80 * 10**7


@pytest.fixture(
    params=[
        pytest.param("desk", marks=pytest.mark.scripted),
        pytest.param("ray_desk", marks=pytest.mark.nightly),
    ]
)
def any_desk(request: pytest.FixtureRequest) -> Desk:
    desk: Desk = request.getfixturevalue(request.param)
    return desk


def budgeted(desk: Desk, count: int, *more: str, config: dict[str, Any] | None = None) -> list[str]:
    """Arguments that annotate this number of rows with a model that has a price and an output limit."""
    desk.provider.models = {"echo": MODEL, "unpriced": UNPRICED}
    desk.write_csv("in.csv", [{"prompt": f"row {i:03}"} for i in range(count)])
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--concurrency", "4", "--json", *more)
    if config:
        path = Path(arguments[arguments.index("--opencode-config") + 1])
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return arguments


def sold_pico(calls: Sequence[Call]) -> int:
    """Cost by the records of the provider."""
    return sum(call.input_tokens * 10**6 + call.output_tokens * 10**7 for call in calls)


def statuses(desk: Desk) -> Counter[str]:
    return Counter(row["status"] for row in desk.read_csv("out.csv"))


def flow_run_state(desk: Desk) -> str | None:
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        flow_run_id = ledger.runs.newest()[0]["flow_run_ids"][-1]
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(flow_run_id)).state
    return state.name if state else None


@pytest.mark.slow
@pytest.mark.prefect
def test_a_run_stops_before_it_could_exceed_its_budget_and_goes_on_with_a_higher_one(any_desk: Desk) -> None:
    desk = any_desk
    desk.provider.on("row", ANSWER)
    paused = desk.run(*budgeted(desk, 30, "--max-cost", "0.016", "--batch-size", "10"))
    assert paused.code == 75, paused.stderr
    sold = sold_pico(desk.provider.calls)
    cap = 16 * 10**9
    assert cap - MAX_PICO - ANSWER_PICO < sold <= cap
    assert statuses(desk) == {"completed": sold // ANSWER_PICO, "open": 30 - sold // ANSWER_PICO}
    assert "budget_exceeded" in paused.stderr
    run_id = paused.summary["run_id"]
    ledger = desk.folder / "ledger.db"
    assert f"opencode-tasks resume {run_id} --ledger {ledger} --max-cost USD" in paused.stderr
    assert paused.summary["budget"] == {
        "max_usd": 0.016,
        "spent_usd": pytest.approx(sold / 10**12, abs=0),
        "unreported_at_most_usd": 0.0,
        "over_usd": 0.0,
    }
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    again = desk.run("resume", run_id, *ledger, "--json")
    assert (again.code, len(desk.provider.calls)) == (75, sold // ANSWER_PICO), again.stderr
    done = desk.run("resume", run_id, *ledger, "--max-cost", "1", "--json")
    assert done.code == 0, done.stderr
    assert done.summary["rows"]["completed"] == 30
    assert max(Counter(desk.provider.prompts()).values()) == 1


@pytest.mark.slow
@pytest.mark.scripted
def test_rows_beyond_the_budget_are_skipped_where_that_is_asked(desk: Desk) -> None:
    desk.provider.on("row", ANSWER)
    ran = desk.run(*budgeted(desk, 12, "--max-cost", "0.005", "--on-budget", "skip"))
    assert ran.code == 1, ran.stderr
    assert sold_pico(desk.provider.calls) <= 5 * 10**9
    asked = len(desk.provider.calls)
    assert statuses(desk) == {"completed": asked, "skipped": 12 - asked}
    skipped = [row for row in desk.read_csv("out.csv") if row["status"] == "skipped"]
    assert {row["error_type"] for row in skipped} == {"budget_exceeded"}
    assert {(row["cost_usd"], row["attempts"]) for row in skipped} == {("0", "0")}


@pytest.mark.scripted
def test_failed_attempts_count_and_what_was_refused_does_not(desk: Desk) -> None:
    """A refusal costs nothing; an answer that is no good was paid for."""
    refused = Reply(status=400, body={"error": {"message": "no"}})
    for number in range(12):
        desk.provider.on(f"row {number:03}", refused if number % 2 else ANSWER)
    ran = desk.run(*budgeted(desk, 12, "--max-cost", "0.009"))
    assert ran.code == 1, ran.stderr
    assert statuses(desk) == {"completed": 6, "failed": 6}
    assert ran.summary["budget"]["spent_usd"] == pytest.approx(6 * ANSWER_PICO / 10**12)


@pytest.mark.scripted
def test_a_dear_answer_is_kept_and_what_goes_beyond_its_reservation_is_told(desk: Desk) -> None:
    desk.provider.on("row", Reply(text="dear", input_tokens=50, output_tokens=900))
    ran = desk.run(*budgeted(desk, 4, "--max-cost", "0.008", "--concurrency", "1"))
    assert ran.code == 75, ran.stderr
    assert statuses(desk) == {"completed": 1, "open": 3}
    assert ran.summary["budget"]["over_usd"] == pytest.approx(0.00905 - 0.008)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--max-cost", "1", "--model", "fake/unpriced"), ["no price is known for fake/unpriced"]),
        pytest.param(
            ("--max-cost", "0.0005"),
            ["is too small for any row of fake/echo: each may cost up to $0.00"],
            marks=pytest.mark.scripted,
        ),
        pytest.param(
            ("--max-cost", "0", "--max-row-cost", "1e7", "--max-failed", "half"),
            [
                "--max-cost: 0 is not an amount of USD above 0 and below 9,000,000",
                "--max-row-cost: 1e+07 is not an amount of USD above 0 and below 9,000,000",
                "--max-failed: 'half' is neither a number of rows nor a percentage",
            ],
            marks=pytest.mark.scripted,
        ),
    ],
)
def test_a_cap_that_cannot_be_held_is_refused_before_anything_is_sent(
    desk: Desk, arguments: tuple[str, ...], told: list[str]
) -> None:
    ran = desk.run(*budgeted(desk, 2, *arguments))
    assert (ran.code, desk.provider.calls) == (2, [])
    assert [words for words in told if words not in ran.stderr] == []


AGENT = {
    "agent": {
        "worker": {
            "mode": "primary",
            "prompt": "You work.",
            "tools": {"*": False, "bash": True},
            "permission": {"bash": "allow"},
        }
    }
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", RARELY_CLI)
def test_an_agent_that_has_cost_too_much_is_ended_and_its_spending_kept(desk: Desk, backend: str) -> None:
    step = Reply(
        tool_calls=[("bash", {"command": "sleep 0.3", "description": "wait"})],
        input_tokens=50,
        output_tokens=80,
    )
    desk.provider.on("row 000", step)
    desk.provider.on("row 001", Reply(text="dear", input_tokens=50, output_tokens=900))
    capped = ("--max-row-cost", "0.002", "--agent", "worker", "--backend", backend)
    ran = desk.run(*budgeted(desk, 2, *capped, config=AGENT))
    assert ran.code == 1, ran.stderr
    endless, dear = desk.read_csv("out.csv")
    assert (endless["status"], endless["error_type"], endless["attempts"]) == (
        "failed",
        "budget_exceeded",
        "1",
    )
    steps = len([call for call in desk.provider.calls if "row 000" in json.dumps(call.body)])
    assert steps == 3
    assert float(endless["cost_usd"]) == pytest.approx(3 * ANSWER_PICO / 10**12)
    # A complete answer is kept, whatever it cost.
    assert (dear["status"], dear["response"]) == ("completed", "dear")


@pytest.mark.nightly
def test_calls_of_an_agent_without_usage_count_in_the_budget(desk: Desk) -> None:
    work = Reply(tool_calls=[("bash", {"command": "true", "description": "work"})], reports_usage=False)
    desk.provider.on("row", *[work] * 4, Reply(text="done", reports_usage=False))
    ran = desk.run(*budgeted(desk, 12, "--max-cost", "0.5", "--agent", "worker", config=AGENT))
    assert ran.code == 75, ran.stderr
    # Each call may have had 100,000 input tokens and 100 output tokens.
    most_pico = len(desk.provider.calls) * (100_000 * 10**6 + 100 * 10**7)
    assert ran.summary["budget"]["unreported_at_most_usd"] == pytest.approx(most_pico / 10**12)
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        assert sum(line["at_most_pico"] for line in ledger.reports.unreported()) == most_pico


@pytest.mark.nightly
@pytest.mark.scripted
def test_an_unreported_call_of_an_earlier_attempt_counts_in_the_cost_of_a_row(desk: Desk) -> None:
    cut = Reply(text="cut in two", chunks=4, cut_after=2)
    desk.provider.on("row", cut, cut, Reply(text="done"))
    # The bound of one attempt is above a tenth of a cent.
    ran = desk.run(*budgeted(desk, 1, "--max-row-cost", "0.001", "--max-attempts", "5"))
    assert ran.code == 1, ran.stderr
    (row,) = desk.read_csv("out.csv")
    assert (row["status"], row["error_type"], row["attempts"]) == ("failed", "budget_exceeded", "1")
    assert len(desk.provider.calls) == 1


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.prefect
@pytest.mark.parametrize(("max_failed", "state"), [("1", "Failed"), ("50%", "Completed")])
def test_a_flow_run_is_failed_where_more_rows_failed_than_may(
    desk: Desk, max_failed: str, state: str
) -> None:
    for number in (1, 2):
        desk.provider.on(f"row 00{number}", Reply(status=400, body={"error": {"message": "no"}}))
    ran: Ran = desk.run(*budgeted(desk, 4, "--max-failed", max_failed))
    assert ran.code == 1, ran.stderr
    assert ran.summary["rows"]["failed"] == 2
    assert statuses(desk) == {"completed": 2, "failed": 2}
    assert flow_run_state(desk) == state
    assert ("2 rows failed, and --max-failed allows 1" in ran.stderr) == (state == "Failed")
