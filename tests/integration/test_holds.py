"""Failures as Prefect states: rows wait for the provider's moment, runs pause for a person and go on."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from uuid import UUID

import pytest
from cluster import Desk, Ran
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State

from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Call, Reply

IN_FLIGHT = 4


def limited(seconds: int) -> Reply:
    return Reply(status=429, headers={"Retry-After": str(seconds)}, body={"error": {"message": "slow down"}})


REFUSED = Reply(status=401, body={"error": {"message": "bad key"}})


def table(desk: Desk, count: int, *more: str) -> list[str]:
    """The arguments that annotate so many rows, ``row 000`` and so on."""
    desk.write_csv("in.csv", [{"prompt": f"row {i:03}"} for i in range(count)])
    return desk.arguments("in.csv", "-o", "out.csv", "--concurrency", str(IN_FLIGHT), *more)


def statuses(desk: Desk) -> Counter[str]:
    return Counter(row["status"] for row in desk.read_csv("out.csv"))


def run_of(desk: Desk) -> dict[str, object]:
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        return ledger.runs.newest()[0]


def batch_histories(desk: Desk) -> list[list[State]]:
    """The states of each batch of the desk's newest run, as Prefect's API tells them."""
    ids = run_of(desk)["flow_run_ids"]
    assert isinstance(ids, list)
    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(ids[-1])]))
        runs = client.read_task_runs(flow_run_filter=wanted)
        return [
            sorted(client.read_task_run_states(run.id), key=lambda state: state.timestamp) for run in runs
        ]


def names(states: Sequence[State]) -> list[str | None]:
    return [state.name for state in states]


@pytest.mark.parametrize(
    ("where", "seconds"),
    [("desk", 4), ("ray_desk", 4), pytest.param("ray_desk", 50, marks=pytest.mark.chaos)],
)
def test_a_limit_shows_as_awaiting_retry_until_the_providers_moment(
    request: pytest.FixtureRequest, where: str, seconds: int
) -> None:
    desk: Desk = request.getfixturevalue(where)
    desk.provider.on("row 002", limited(seconds), Reply(text="late"))
    ran = desk.run(*table(desk, 6, "--json"))
    assert ran.code == 0, ran.stderr
    assert ran.summary["rows"]["completed"] == 6
    (states,) = batch_histories(desk)
    assert names(states) == ["Pending", "Running", "AwaitingRetry", "Retrying", "Completed"]
    asked = [call for call in desk.provider.calls if call.prompt == "row 002"]
    assert len(asked) == 2
    moment = asked[0].at + seconds
    scheduled = states[2].state_details.scheduled_time
    assert scheduled is not None
    # The plugin notes the answer's moment in whole milliseconds.
    assert moment - 0.001 <= scheduled.timestamp() <= states[2].timestamp.timestamp() + seconds
    assert asked[1].at >= moment
    assert max(Counter(desk.provider.prompts()).values()) == 2


def test_one_limit_holds_back_every_row_until_its_end(desk: Desk) -> None:
    desk.provider.on(lambda call: call.prompt == "row 005", limited(4), Reply(text="late"))
    desk.provider.on("row", Reply(delay_s=0.3))
    ran = desk.run(*table(desk, 30, "--batch-size", "5", "--json"))
    assert ran.code == 0, ran.stderr
    assert statuses(desk) == {"completed": 30}
    calls = sorted(desk.provider.calls, key=lambda call: call.at)
    refused_at = next(call.at for call in calls if call.status == 429)
    within = [call for call in calls if refused_at + 0.5 < call.at < refused_at + 3.9]
    assert len(within) <= IN_FLIGHT
    assert Counter(desk.provider.prompts()) == Counter({f"row {i:03}": 1 for i in range(30)} | {"row 005": 2})


def test_a_long_limit_is_waited_for_by_hand_with_the_reason(desk: Desk) -> None:
    desk.provider.on("row 001", limited(8), Reply(text="late"))
    ran = desk.run(*table(desk, 3), env={"OPENCODE_TASKS_MAX_INLINE_WAIT": "2"})
    assert ran.code == 0, ran.stderr
    assert "rate_limit" in ran.stderr
    assert "slow down" in ran.stderr
    assert statuses(desk) == {"completed": 3}
    ids = run_of(desk)["flow_run_ids"]
    assert isinstance(ids, list)
    with get_client(sync_client=True) as client:
        states = sorted(client.read_flow_run_states(UUID(ids[0])), key=lambda state: state.timestamp)
    assert names(states)[-3:] == ["AwaitingRetry", "Running", "Completed"]
    assert [call.prompt for call in desk.provider.calls].count("row 001") == 2


def resumed(desk: Desk, ran: Ran, *more: str) -> Ran:
    """Resume as the command said to."""
    told = re.search(r"opencode-tasks (resume \S+)", ran.stderr)
    assert told is not None, ran.stderr
    return desk.run(*told[1].split(), "--ledger", str(desk.folder / "ledger.db"), *more)


def test_no_wait_stops_with_the_open_rows_and_the_command_that_goes_on(desk: Desk) -> None:
    desk.provider.on("row 001", limited(5), Reply(text="late"))
    short = {"OPENCODE_TASKS_MAX_INLINE_WAIT": "1"}
    ran = desk.run(*table(desk, 8, "--no-wait", "--concurrency", "1"), env=short)
    assert ran.code == 75, ran.stderr
    rows = desk.read_csv("out.csv")
    assert [row["status"] for row in rows] == ["completed"] + ["open"] * 7
    assert rows[1]["error_type"] == "rate_limit"
    assert all(row["waits_until"] for row in rows[1:])
    assert run_of(desk)["status"] == "waiting"
    told = desk.run(
        "export", str(run_of(desk)["run_id"]), "-o", "so-far.csv", "--ledger", str(desk.folder / "ledger.db")
    )
    assert told.code == 0, told.stderr
    assert told.stdout == "7 open, 1 completed -> so-far.csv\n"
    assert desk.read_csv("so-far.csv") == rows
    again = resumed(desk, ran, "--json")
    assert again.code == 0, again.stderr
    assert again.summary["run_id"] == run_of(desk)["run_id"]
    assert statuses(desk) == {"completed": 8}
    assert Counter(desk.provider.prompts()) == Counter({f"row {i:03}": 1 for i in range(8)} | {"row 001": 2})


def test_a_bad_key_pauses_the_run_and_a_mended_one_goes_on(desk: Desk) -> None:
    mended: list[bool] = []

    def is_refused(call: Call) -> bool:
        return not mended and int(call.prompt[-3:]) >= 10

    desk.provider.on(is_refused, REFUSED)
    ran = desk.run(*table(desk, 30, "--json"))
    assert ran.code == 75, ran.stderr
    assert (ran.summary["rows"]["completed"], ran.summary["rows"]["open"]) == (10, 20)
    assert "authentication_failed" in ran.stderr
    assert "bad key" in ran.stderr
    assert statuses(desk) == {"completed": 10, "open": 20}
    calls = list(desk.provider.calls)
    refused = [call for call in calls if call.status == 401]
    assert 1 < len(refused) <= IN_FLIGHT
    mended.append(True)
    again = resumed(desk, ran)
    assert again.code == 0, again.stderr
    assert statuses(desk) == {"completed": 30}
    bought = Counter(call.prompt for call in desk.provider.calls if call.status == 200)
    assert set(bought.values()) == {1}
    assert len(bought) == 30


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_refusal_of_one_row_alone_is_its_own_failure(desk: Desk, concurrency: int) -> None:
    desk.provider.on("row 003", REFUSED)
    ran = desk.run(*table(desk, 12, "--concurrency", str(concurrency)))
    assert ran.code == 1, ran.stderr
    rows = desk.read_csv("out.csv")
    assert [row["error_type"] for row in rows if row["status"] == "failed"] == ["authentication_failed"]
    assert statuses(desk) == {"completed": 11, "failed": 1}
    assert Counter(desk.provider.prompts()) == Counter(f"row {i:03}" for i in range(12))


def test_an_outage_does_not_burn_through_the_rows(desk: Desk) -> None:
    ups: list[float] = []
    desk.provider.on(
        lambda call: not ups, Reply(status=503, headers={"Retry-After": "1"}, body={"error": "down"})
    )
    env = {"OPENCODE_TASKS_BREAKER_FAILURES": "5"}
    with desk.start(*table(desk, 40), env=env) as process:
        deadline = time.monotonic() + 90
        while len(desk.provider.calls) < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3)
        during = len(desk.provider.calls)
        ups.append(time.time())
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert during <= 5 + 2 * IN_FLIGHT
    assert statuses(desk) == {"completed": 40}


def test_resume_without_anything_to_resume_says_so(desk: Desk) -> None:
    with Ledger.open(str(desk.folder / "ledger.db")):
        """Made, with nothing in it."""
    ran = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"))
    assert ran.code == 2
    assert "every run of this ledger has ended" in ran.stderr
    ran = desk.run("resume", "no-such-run", "--ledger", str(desk.folder / "ledger.db"))
    assert ran.code == 2
    assert "no run no-such-run" in ran.stderr


def test_a_changed_input_is_not_resumed(desk: Desk) -> None:
    desk.provider.on("row", REFUSED)
    ran = desk.run(*table(desk, 2))
    assert ran.code == 75, ran.stderr
    desk.write_csv("in.csv", [{"prompt": "another"}])
    again = resumed(desk, ran)
    assert again.code == 2
    assert "changed since the run began" in again.stderr
    assert json.loads(desk.run("runs", "--json", "--ledger", str(desk.folder / "ledger.db")).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["desk", "ray_desk"])
def test_mixed_rows_come_to_the_same_on_threads_and_on_ray(
    request: pytest.FixtureRequest, where: str
) -> None:
    desk: Desk = request.getfixturevalue(where)

    def failing(status: int, words: str) -> Reply:
        return Reply(status=status, body={"error": {"message": words}})

    desk.provider.on("row 004", REFUSED)
    desk.provider.on("row 014", failing(402, "no credit"))
    desk.provider.on("row 009", failing(400, "no such thing"))
    desk.provider.on("row 017", limited(3), Reply(text="late"))
    desk.provider.on("row 020", Reply(text="part of it", finish_reason="length"))
    desk.provider.on("row 023", failing(503, "down"), Reply(text="up"))
    desk.provider.on("row 026", Reply(finish_reason="content_filter"))
    ran = desk.run(*table(desk, 30, "--json"))
    assert ran.code == 1, ran.stderr
    rows = desk.read_csv("out.csv")
    assert {row["prompt"]: row["error_type"] for row in rows if row["status"] != "completed"} == {
        "row 004": "authentication_failed",
        "row 009": "invalid_request",
        "row 014": "billing_error",
        "row 020": "max_output_tokens",
        "row 026": "content_filter",
    }
    asked = Counter(desk.provider.prompts())
    # Refused while another row is under suspicion, a row is asked once more after others were answered.
    assert sum(asked.pop(prompt) for prompt in ("row 004", "row 014")) <= 3
    assert {prompt: count for prompt, count in asked.items() if count > 1} == {
        "row 017": 2,
        "row 020": 2,
        "row 023": 2,
    }


def test_the_number_of_rows_in_flight_is_found_and_remembered(desk: Desk) -> None:
    allowed = 3
    desk.provider.on("row", Reply(delay_s=0.3)).limit_concurrency(allowed)
    desk.write_csv("in.csv", [{"prompt": f"row {i:03}"} for i in range(24)])
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--runner", "threads")
    ran = desk.run(*arguments)
    assert ran.code == 0, ran.stderr
    assert statuses(desk) == {"completed": 24}
    assert "up to 24 rows in flight, the number is found by trial" in ran.stderr
    refused = [call for call in desk.provider.calls if call.status == 429]
    assert 1 <= len(refused) <= 4
    found = desk.provider.calls[:]
    # A later run begins with what was found.
    ran = desk.run(*arguments, "--refresh", "--limit", "6")
    assert ran.code == 0, ran.stderr
    assert [call.status for call in desk.provider.calls[len(found) :]].count(429) <= 1
