"""Deployed runs at full size: a long rate limit without a process, and a key that a person replaces."""

from __future__ import annotations

import time
from collections import Counter

import psutil
import pytest
from cluster import Desk
from deployed import history, served, started, state_of, wait_for, workers

from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Call, Reply

# Prefect's runner starts the process of a flow run this long before its scheduled time.
PREFETCH_S = 12
FLOW_STATES = ("Running", "AwaitingRetry", "Suspended", "Completed", "Failed", "Crashed")


@pytest.mark.nightly
def test_a_limit_of_90_seconds_is_slept_through(desk: Desk) -> None:
    limited = Reply(status=429, headers={"Retry-After": "90"}, body={"error": {"message": "slow"}})
    desk.provider.on("row 011", limited, Reply(text="late"))
    log = desk.folder / "serve.log"
    before = set(psutil.pids())
    with served(desk, "long-limit") as client:
        flow_run_id = started(desk, client, "long-limit", 40, runner="ray")
        wait_for(lambda: state_of(client, flow_run_id).name == "AwaitingRetry", log)
        refused = next(call for call in desk.provider.calls if call.status == 429)
        ledger = str(desk.folder / "ledger.db")
        with Ledger.open(ledger) as opened:
            run_id = opened.runs.newest()[0]["run_id"]
        exported = desk.run("export", run_id, "-o", "now.csv", "--ledger", ledger)
        assert exported.code == 0, exported.stderr
        assert len(desk.read_csv("now.csv")) == 40
        wait_for(lambda: workers(before) == [], log, 20)
        asleep_from = time.time()
        while time.time() < refused.at + 90 - PREFETCH_S:
            assert workers(before) == []
            time.sleep(0.5)
        asleep_s = time.time() - asleep_from
        wait_for(lambda: state_of(client, flow_run_id).name == "Running", log)
        running = state_of(client, flow_run_id).timestamp.timestamp()
        wait_for(lambda: state_of(client, flow_run_id).is_final(), log)
        told = [name for name in history(client, flow_run_id) if name in FLOW_STATES]
    assert told == ["Running", "AwaitingRetry", "Running", "Completed"]
    print(f"asleep {asleep_s:.0f} s; running again {running - refused.at - 90:.1f} s after the reset")
    assert running - refused.at - 90 < 15
    bought = Counter(call.prompt for call in desk.provider.calls if call.status == 200)
    assert bought == {f"row {i:03}": 1 for i in range(40)}


@pytest.mark.nightly
def test_a_key_refused_at_row_37_of_100_is_mended_by_a_person(desk: Desk) -> None:
    """The key becomes invalid when row 37 is sent."""
    dead: list[str] = []
    mended: list[bool] = []

    def is_refused(call: Call) -> bool:
        if call.prompt == "row 037":
            dead.append(call.prompt)
        return bool(dead) and not mended

    desk.provider.on(is_refused, Reply(status=401, body={"error": {"message": "bad key"}}))
    desk.provider.on("row", Reply(delay_s=0.5))
    log = desk.folder / "serve.log"
    with served(desk, "row-37") as client:
        flow_run_id = started(desk, client, "row-37", 100, runner="ray", concurrency=4)
        wait_for(lambda: state_of(client, flow_run_id).name == "Suspended", log)
        suspended = state_of(client, flow_run_id).timestamp.timestamp()
        last = max(call.at for call in desk.provider.calls)
        refused = [call for call in desk.provider.calls if call.status == 401]
        after = [call for call in desk.provider.calls if call.at > refused[0].at]
        bought = {call.prompt for call in desk.provider.calls if call.status == 200}
        kept = {row["prompt"] for row in desk.read_csv("out.csv") if row["status"] == "completed"}
        print(
            f"suspended {suspended - last:.1f} s after the last call, {len(kept)} rows completed; "
            f"{len(after)} calls after the first 401"
        )
        assert suspended - last < 5 + 0.5
        assert len(after) <= 4
        assert kept == bought
        assert len(kept) > 30
        mended.append(True)
        client.resume_flow_run(flow_run_id)
        wait_for(lambda: state_of(client, flow_run_id).is_final(), log)
        told = [name for name in history(client, flow_run_id) if name in FLOW_STATES]
    assert told == ["Running", "Suspended", "Running", "Completed"]
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": 100}
    answered = Counter(call.prompt for call in desk.provider.calls if call.status == 200)
    assert answered == {f"row {i:03}": 1 for i in range(100)}
