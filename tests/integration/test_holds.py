"""Failures as Prefect states: rows wait until a reset time, runs are paused for a person and resumed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
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

pytestmark = pytest.mark.prefect

IN_FLIGHT = 4


def limited(seconds: int) -> Reply:
    return Reply(status=429, headers={"Retry-After": str(seconds)}, body={"error": {"message": "slow down"}})


REFUSED = Reply(status=401, body={"error": {"message": "bad key"}})


def table(desk: Desk, count: int, *more: str) -> list[str]:
    """Arguments that annotate ``count`` rows: ``row 000``, ``row 001``, …"""
    desk.write_csv("in.csv", [{"prompt": f"row {i:03}"} for i in range(count)])
    return desk.arguments("in.csv", "-o", "out.csv", "--concurrency", str(IN_FLIGHT), *more)


def statuses(desk: Desk) -> Counter[str]:
    return Counter(row["status"] for row in desk.read_csv("out.csv"))


def run_of(desk: Desk) -> dict[str, object]:
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        return ledger.runs.newest()[0]


def batch_histories(desk: Desk) -> list[list[State]]:
    """States of each batch of the newest run of the desk, from Prefect's API."""
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


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.parametrize(
    ("where", "seconds"),
    [("desk", 4), *(pytest.param("ray_desk", s, marks=pytest.mark.nightly) for s in (4, 50))],
)
def test_a_rate_limit_is_an_awaiting_retry_until_the_reset_time(
    request: pytest.FixtureRequest, where: str, seconds: int
) -> None:
    desk: Desk = request.getfixturevalue(where)
    desk.provider.on("row 002", limited(seconds), Reply(text="late"))
    ran = desk.run(*table(desk, 6, "--json"))
    assert ran.code == 0, ran.stderr
    assert ran.summary["rows"]["completed"] == 6
    (states,) = batch_histories(desk)
    assert names(states) == ["Pending", "Running", "AwaitingRetry", "Retrying", "Completed"]
    sent = [call for call in desk.provider.calls if call.prompt == "row 002"]
    assert len(sent) == 2
    reset_time = sent[0].at + seconds
    scheduled = states[2].state_details.scheduled_time
    assert scheduled is not None
    # The plugin records the time of the answer in whole milliseconds.
    assert reset_time - 0.001 <= scheduled.timestamp() <= states[2].timestamp.timestamp() + seconds
    assert sent[1].at >= reset_time
    assert max(Counter(desk.provider.prompts()).values()) == 2


@pytest.mark.slow
@pytest.mark.scripted
def test_a_rate_limit_holds_every_row_until_its_reset_time(desk: Desk) -> None:
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


@pytest.mark.nightly
@pytest.mark.scripted
def test_a_local_run_waits_for_a_long_rate_limit_and_shows_the_reason(desk: Desk) -> None:
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
    """Resume with the command that was printed."""
    told = re.search(r"opencode-tasks (resume \S+)", ran.stderr)
    assert told is not None, ran.stderr
    return desk.run(*told[1].split(), "--ledger", str(desk.folder / "ledger.db"), *more)


@pytest.mark.slow
@pytest.mark.scripted
def test_no_wait_stops_with_open_rows_and_prints_the_resume_command(desk: Desk) -> None:
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


@pytest.mark.slow
@pytest.mark.scripted
def test_an_invalid_key_pauses_the_run_and_a_fixed_key_resumes_it(desk: Desk) -> None:
    fixed: list[bool] = []

    def is_refused(call: Call) -> bool:
        return not fixed and int(call.prompt[-3:]) >= 10

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
    fixed.append(True)
    again = resumed(desk, ran)
    assert again.code == 0, again.stderr
    assert statuses(desk) == {"completed": 30}
    completed = Counter(call.prompt for call in desk.provider.calls if call.status == 200)
    assert set(completed.values()) == {1}
    assert len(completed) == 30


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_refusal_of_a_single_row_fails_that_row(desk: Desk, concurrency: int) -> None:
    desk.provider.on("row 003", REFUSED)
    ran = desk.run(*table(desk, 12, "--concurrency", str(concurrency)))
    assert ran.code == 1, ran.stderr
    rows = desk.read_csv("out.csv")
    assert [row["error_type"] for row in rows if row["status"] == "failed"] == ["authentication_failed"]
    assert statuses(desk) == {"completed": 11, "failed": 1}
    assert Counter(desk.provider.prompts()) == Counter(f"row {i:03}" for i in range(12))


@pytest.mark.slow
@pytest.mark.scripted
def test_an_outage_does_not_use_up_the_attempts_of_all_rows(desk: Desk) -> None:
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


@pytest.mark.scripted
def test_resume_without_an_unfinished_run_is_an_error(desk: Desk) -> None:
    with Ledger.open(str(desk.folder / "ledger.db")):
        """Create an empty ledger."""
    ran = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"))
    assert ran.code == 2
    assert "every run of this ledger has ended" in ran.stderr
    ran = desk.run("resume", "no-such-run", "--ledger", str(desk.folder / "ledger.db"))
    assert ran.code == 2
    assert "no run no-such-run" in ran.stderr


IN_PYTHON = """
import sys
import pandas as pd
from opencode_tasks import annotate
def fail(event):
    raise RuntimeError("the program ends")
annotate(pd.DataFrame({"prompt": ["q"]}), backend="null", ledger=sys.argv[1], on_event=fail)
"""


@pytest.mark.slow
@pytest.mark.scripted
def test_resume_leaves_out_newer_runs_that_no_command_can_resume(desk: Desk) -> None:
    ledger = str(desk.folder / "ledger.db")
    desk.provider.on("row", REFUSED, REFUSED, Reply(text="late"))
    ran = desk.run(*table(desk, 2))
    assert ran.code == 75, ran.stderr
    program = [sys.executable, "-c", IN_PYTHON, ledger]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert "the program ends" in ended.stderr
    [newest, paused] = json.loads(desk.run("runs", "--json", "--ledger", ledger).stdout)
    assert (newest["status"], paused["status"]) == ("interrupted", "paused")
    again = desk.run("resume", "--ledger", ledger)
    assert again.code == 0, again.stderr
    assert statuses(desk) == {"completed": 2}
    # It is named once no other run is left.
    again = desk.run("resume", "--ledger", ledger)
    assert again.code == 2
    assert f"run {newest['run_id']} was started from Python: run its program" in again.stderr


@pytest.mark.slow
@pytest.mark.scripted
def test_a_changed_input_is_not_resumed(desk: Desk) -> None:
    desk.provider.on("row", REFUSED)
    ran = desk.run(*table(desk, 2))
    assert ran.code == 75, ran.stderr
    desk.write_csv("in.csv", [{"prompt": "another"}])
    again = resumed(desk, ran)
    assert again.code == 2
    assert "changed since the run began" in again.stderr
    assert json.loads(desk.run("runs", "--json", "--ledger", str(desk.folder / "ledger.db")).stdout)


@pytest.mark.scripted
@pytest.mark.parametrize(
    "where",
    [pytest.param("desk", marks=pytest.mark.slow), pytest.param("ray_desk", marks=pytest.mark.nightly)],
)
def test_mixed_failures_have_the_same_outcomes_on_threads_and_on_ray(
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
    sent = Counter(desk.provider.prompts())
    # A row that is refused while another one is suspected is sent again after others were answered.
    assert sum(sent.pop(prompt) for prompt in ("row 004", "row 014")) <= 3
    assert {prompt: count for prompt, count in sent.items() if count > 1} == {
        "row 017": 2,
        "row 020": 2,
        "row 023": 2,
    }


@pytest.mark.nightly
def test_the_number_of_rows_in_flight_is_found_and_remembered(desk: Desk) -> None:
    allowed = 3
    desk.provider.on("row", Reply(delay_s=0.3)).limit_concurrency(allowed)
    desk.write_csv("in.csv", [{"prompt": f"row {i:03}"} for i in range(24)])
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--runner", "threads")
    ran = desk.run(*arguments)
    assert ran.code == 0, ran.stderr
    assert statuses(desk) == {"completed": 24}
    assert "up to 24 at a time, a number found by trial" in ran.stderr
    refused = [call for call in desk.provider.calls if call.status == 429]
    assert 1 <= len(refused) <= 4
    found = desk.provider.calls[:]
    # A later run starts with the limit that was found.
    ran = desk.run(*arguments, "--refresh", "--limit", "6")
    assert ran.code == 0, ran.stderr
    assert [call.status for call in desk.provider.calls[len(found) :]].count(429) <= 1
