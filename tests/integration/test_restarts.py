"""Prefect's server and worker restart while a flow run sleeps, and while it is suspended."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

import httpx
import pytest
from cluster import Desk
from deployed import LIMIT_S, history, started, state_of, wait_for, worked
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import PrefectServer, running

from opencode_tasks.testing import Reply

FLOW_STATES = ("Running", "AwaitingRetry", "Suspended", "Completed", "Failed", "Crashed")


@contextmanager
def started_again(server: PrefectServer) -> Generator[None]:
    """The server, for this process too; it is killed at the end."""
    with running(server), temporary_settings({PREFECT_API_URL: server.url}):
        yield


@pytest.mark.nightly
@pytest.mark.timeout(400)
def test_a_sleeping_or_suspended_run_survives_restarts_of_server_and_worker(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_s = 40
    limited = Reply(status=429, headers={"Retry-After": str(limit_s)}, body={"error": {"message": "slow"}})
    # The rate limit of one row holds the others; the key is refused when the run is started again.
    restarts: list[str] = []
    desk.provider.on("row 003", limited, Reply(text="late"))
    desk.provider.on(
        lambda call: restarts == ["asleep"] and call.prompt >= "row 008",
        Reply(status=401, body={"error": {"message": "bad key"}}),
    )
    log, server = desk.folder / "serve.log", PrefectServer(desk.folder / "prefect")
    monkeypatch.setenv("PREFECT_API_URL", server.url)

    with started_again(server), worked(desk) as client:
        flow_run_id = started(desk, client, "annotate", 12, runner="threads", template=None, choices=None)
        wait_for(lambda: state_of(client, flow_run_id).name == "AwaitingRetry", log)
        asleep = state_of(client, flow_run_id).state_details.scheduled_time
        assert asleep is not None
    with started_again(server), worked(desk) as client:
        assert state_of(client, flow_run_id).name == "AwaitingRetry"
        assert time.time() < asleep.timestamp(), "the restart took longer than the limit: nothing is shown"
        restarts.append("asleep")
        wait_for(lambda: state_of(client, flow_run_id).name == "Suspended", log)
    calls = len(desk.provider.calls)
    with started_again(server), worked(desk) as client:
        assert state_of(client, flow_run_id).name == "Suspended"
        restarts.append("suspended")
        # The request of the button in Prefect's UI.
        url = f"{os.environ['PREFECT_API_URL']}/flow_runs/{flow_run_id}/resume"
        assert httpx.post(url, json={}, timeout=LIMIT_S).json()["status"] == "ACCEPT"
        wait_for(lambda: state_of(client, flow_run_id).is_final(), log)
        states = [name for name in history(client, flow_run_id) if name in FLOW_STATES]
    assert states == ["Running", "AwaitingRetry", "Running", "Suspended", "Running", "Completed"]
    assert len(desk.provider.calls) > calls
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": 12}
    completed = Counter(call.prompt for call in desk.provider.calls if call.status == 200)
    assert completed == {f"row {i:03}": 1 for i in range(12)}
