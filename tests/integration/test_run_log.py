"""The log, the artifacts and the task names of a flow run: the same story as on the terminal."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from cluster import Desk
from deployed import LIMIT_S, parameters_of, served, started, state_of, wait_for
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import Log
from prefect.client.schemas.sorting import FlowRunSort, LogSort
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from opencode_tasks import InputError, annotate_dataset
from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Reply

pytestmark = pytest.mark.prefect

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
ROWS = 12
FAULT = "INPUT has no column 'nothing' (--template)"


def limited(seconds: int) -> Reply:
    return Reply(
        status=429, headers={"Retry-After": str(seconds)}, body={"error": {"message": "please recharge"}}
    )


def logs(client: SyncPrefectClient, flow_run_id: UUID) -> list[Log]:
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
    return client.read_logs(log_filter=wanted, limit=200, sort=LogSort.TIMESTAMP_ASC)


def lines(client: SyncPrefectClient, flow_run_id: UUID, last: str) -> list[str]:
    """Messages of a flow run, as soon as one contains ``last``: they are sent every few seconds."""
    deadline = time.monotonic() + LIMIT_S
    found: list[str] = []
    while time.monotonic() < deadline:
        found = [log.message for log in logs(client, flow_run_id)]
        if any(last in message for message in found):
            break
        time.sleep(0.5)
    return found


def assert_in_order(patterns: Sequence[str], messages: Sequence[str]) -> None:
    remaining = iter(messages)
    for pattern in patterns:
        assert any(re.fullmatch(pattern, message) for message in remaining), (pattern, messages)


def progress_artifacts(client: SyncPrefectClient, flow_run_id: UUID) -> list[str]:
    """Descriptions of the progress artifacts of a flow run."""
    wanted = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]),
        key=ArtifactFilterKey(any_=["opencode-progress"]),
    )
    return [found.description or "" for found in client.read_artifacts(artifact_filter=wanted)]


def task_names(client: SyncPrefectClient, flow_run_id: UUID) -> list[str]:
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    return sorted(run.name for run in client.read_task_runs(flow_run_filter=wanted))


@pytest.mark.nightly
def test_a_deployed_run_tells_its_story_in_prefect(desk: Desk) -> None:
    desk.provider.on("row 007", limited(10), Reply(text="late"))
    desk.provider.on("row 010", Reply(status=400, body={"error": {"message": "no such thing"}}))
    log = desk.folder / "serve.log"
    with served(desk, "story") as client:
        flow_run_id = started(desk, client, "story", ROWS, runner="threads", max_cost=5)
        wait_for(lambda: state_of(client, flow_run_id).name == "AwaitingRetry", log)
        ended = sum(row["status"] != "open" for row in desk.read_csv("out.csv"))
        (description,) = progress_artifacts(client, flow_run_id)
        assert f": {ended} of {ROWS} rows, 0 failed" in description
        wait_for(lambda: state_of(client, flow_run_id).is_final(), log)
        messages = lines(client, flow_run_id, "output: ")
        names = task_names(client, flow_run_id)
        (description,) = progress_artifacts(client, flow_run_id)
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        run_id = ledger.runs.newest()[0]["run_id"]
    left = ROWS - ended
    assert_in_order(
        [
            rf"run {run_id}: {ROWS} rows(?: in batches of up to \d+)?, 2 at a time",
            r"opencode \d\S+, model fake/echo.*",
            r"limits: \$5\.00 for the run",
            rf"{left} rows wait; next attempt at {TIME} \(rate_limit\): .*please recharge.*",
            rf"{ended}/{ROWS} rows, 0 failed, \$\d\S+ so far.*",
            rf"run {run_id} is paused with {left} open \(rate_limit\): .*please recharge.*".replace(
                f"{left} open", f"{left} rows open"
            ),
            rf"sleeping until {TIME}: Prefect starts this flow run again then",
            rf"run {run_id}: {left} rows(?: in batches of up to \d+)?, 2 at a time",
            rf"{ended} of {ROWS} rows ended before: this run continues",
            rf"{ROWS - 1} completed, 1 failed",
            r"tokens: .*",
            rf"cost: \$.*, run {run_id}",
            r"1 row failed with invalid_request: HTTP 400: no such thing",
            rf"output: {desk.folder}/out\.csv",
        ],
        messages,
    )
    assert not any("Traceback" in message for message in messages)
    assert f": {ROWS} of {ROWS} rows, 1 failed" in description
    assert all(re.fullmatch(r"(row \d+|\d+ rows, \d+ to \d+) \(batch [0-9a-f]{8}\)", one) for one in names)
    assert [name for name in names if name.startswith(f"{ended + 1} rows, 0 to ")], names


@pytest.mark.nightly
def test_a_fault_of_a_deployed_run_is_one_line(desk: Desk) -> None:
    log = desk.folder / "serve.log"
    with served(desk, "faulty") as client:
        flow_run_id = started(desk, client, "faulty", 2, runner="threads", template="Rate {nothing}")
        wait_for(lambda: state_of(client, flow_run_id).is_final(), log)
        messages = lines(client, flow_run_id, "Finished in state Failed")
        state = state_of(client, flow_run_id)
    assert state.name == "Failed"
    assert FAULT in (state.message or "")
    assert len((state.message or "").splitlines()) == 1
    about = [message for message in messages if FAULT in message and "Finished in state" not in message]
    assert len(about) == 1, messages
    assert not any("Traceback" in message for message in messages)
    assert "Traceback" not in log.read_text()


@flow(name="caller", validate_parameters=False)
def caller(parameters: dict[str, Any]) -> None:
    """A flow of a user that calls the flow of the package."""
    annotate_dataset(**parameters)


def newest_run(client: SyncPrefectClient, flow_name: str) -> UUID:
    """The newest flow run of a flow."""
    wanted = FlowFilter(name=FlowFilterName(any_=[flow_name]))
    return client.read_flow_runs(flow_filter=wanted, limit=1, sort=FlowRunSort.START_TIME_DESC)[0].id


@pytest.mark.nightly
def test_a_flow_that_calls_the_flow_gets_the_fault_and_logs_one_line(desk: Desk) -> None:
    parameters = {**parameters_of(desk, 1), "ledger": str(desk.folder / "ledger.db"), "template": "{nothing}"}
    with (
        temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: True}),
        pytest.raises(InputError, match=re.escape(FAULT)),
    ):
        caller(parameters)
    with get_client(sync_client=True) as client:
        for name in ("annotate-dataset", "caller"):
            messages = lines(client, newest_run(client, name), "Finished in state Failed")
            about = [one for one in messages if FAULT in one and "Finished in state" not in one]
            assert len(about) == 1, messages
            assert not any("Traceback" in message for message in messages)


@pytest.mark.nightly
def test_a_run_of_the_command_line_has_its_lines_once_on_the_terminal_and_in_prefect(desk: Desk) -> None:
    desk.provider.on("row", limited(8), Reply(text="late", delay_s=2.0))
    desk.write_csv("in.csv", [{"prompt": f"row {i}"} for i in range(2)])
    ran = desk.run(*desk.arguments("in.csv", "-o", "out.csv", "--concurrency", "1"))
    assert ran.code == 0, ran.stderr
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        (flow_run_id,) = ledger.runs.newest()[0]["flow_run_ids"]
    with get_client(sync_client=True) as client:
        messages = lines(client, UUID(flow_run_id), "output: ")
    shown = [
        r"run \S+: 2 rows, 1 at a time",
        rf"2 rows wait; next attempt at {TIME} \(rate_limit\): .*please recharge.*",
        r"resumed: [12] rows? left",
    ]
    assert_in_order([*shown, "2 completed"], messages)
    for pattern in shown:
        assert sum(bool(re.fullmatch(pattern, line)) for line in ran.stderr.splitlines()) == 1, ran.stderr
    assert "INFO" not in ran.stderr
    assert "Finished in state" not in ran.stderr


@pytest.mark.scripted
@pytest.mark.nightly
def test_a_long_run_logs_its_progress_every_minute(desk: Desk) -> None:
    desk.provider.on("row", Reply(delay_s=11.0))
    desk.write_csv("in.csv", [{"prompt": f"row {i}"} for i in range(7)])
    ran = desk.run(*desk.arguments("in.csv", "-o", "out.csv", "--concurrency", "1"))
    assert ran.code == 0, ran.stderr
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        (flow_run_id,) = ledger.runs.newest()[0]["flow_run_ids"]
    with get_client(sync_client=True) as client:
        messages = lines(client, UUID(flow_run_id), "output: ")
    (progress,) = [message for message in messages if "/7 rows, 0 failed" in message]
    assert re.fullmatch(
        r"\d/7 rows, 0 failed, \S+ rows/min, about \d+ s left, "
        r"\$\S+ so far, about \$\S+ in total, 1 row in flight",
        progress,
    )
