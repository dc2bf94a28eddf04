"""The flow as a deployment: asleep with no process until the provider's moment, suspended for a person."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import psutil
import pytest
from cluster import Desk
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound

from opencode_tasks.testing import Reply

ROOT = Path(__file__).parents[2]
PREFECT = str(Path(sys.executable).with_name("prefect"))
SERVING = Path(__file__).parents[1] / "serving.py"
LIMIT_S = 120.0
PRICED: Mapping[str, Any] = {
    "cost": {"input": 1, "output": 10},
    "limit": {"context": 100_000, "output": 100},
}
# The server of the deployment, and Python's own tracker of shared memory.
SPARED = ("serving.py", "resource_tracker")


@contextmanager
def running(desk: Desk, name: str, arguments: list[str], **more: str) -> Generator[SyncPrefectClient]:
    """What starts the flow runs of a deployment of that name; ended with everything that it started."""
    env = os.environ | {
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "OPENCODE_TASKS_MAX_INLINE_WAIT": "2",
        "OPENCODE_TASKS_LEDGER": str(desk.folder / "ledger.db"),
        **more,
    }
    log = desk.folder / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen(arguments, cwd=desk.folder, env=env, stdout=out, stderr=out)
    try:
        with get_client(sync_client=True) as client:
            wait_for(lambda: has_deployment(client, name), log)
            yield client
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in family:
            one.kill()
        process.wait(timeout=20)


def served(desk: Desk, name: str) -> AbstractContextManager[SyncPrefectClient]:
    """A served deployment of that name."""
    return running(desk, name, [sys.executable, str(SERVING), name])


def worked(desk: Desk) -> AbstractContextManager[SyncPrefectClient]:
    """The deployment of ``deployments/prefect.yaml``, and a worker that starts processes for it."""
    pool = ["work-pool", "create", "--type", "process", "opencode-tasks", "--overwrite"]
    deploy = ["--no-prompt", "deploy", "--prefect-file", "deployments/prefect.yaml", "--all"]
    for arguments in (pool, deploy):
        done = subprocess.run(
            [PREFECT, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return running(desk, "annotate", [PREFECT, "worker", "start", "--pool", "opencode-tasks"])


def has_deployment(client: SyncPrefectClient, name: str) -> bool:
    try:
        client.read_deployment_by_name(f"annotate-dataset/{name}")
    except ObjectNotFound:
        return False
    return True


def wait_for(claim: Any, log: Path, limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not claim():
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.2)


def started(desk: Desk, client: SyncPrefectClient, name: str, rows: int, **more: Any) -> UUID:
    desk.write_csv("in.csv", [{"prompt": f"row {i:03}"} for i in range(rows)])
    config = desk.folder / "opencode.json"
    config.write_text(json.dumps(desk.provider.opencode_config()))
    parameters = {
        "input": str(desk.folder / "in.csv"),
        "output": str(desk.folder / "out.csv"),
        "model": "fake/echo",
        "opencode_config": str(config),
        "opencode_bin": str(desk.binary),
        "concurrency": 2,
        **more,
    }
    deployment = client.read_deployment_by_name(f"annotate-dataset/{name}")
    return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id


def state_of(client: SyncPrefectClient, flow_run_id: UUID) -> State:
    state = client.read_flow_run(flow_run_id).state
    assert state is not None
    return state


def history(client: SyncPrefectClient, flow_run_id: UUID) -> list[str | None]:
    states = client.read_flow_run_states(flow_run_id)
    return [state.name for state in sorted(states, key=lambda state: state.timestamp)]


def workers(before: set[int]) -> list[str]:
    """The command lines of flow, opencode and Ray processes of this session that came since."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            is_ours = process.pid not in before and process.environ().get("HOME") == os.environ["HOME"]
            if (
                is_ours
                and process.status() != psutil.STATUS_ZOMBIE
                and not any(word in line for word in SPARED)
            ):
                found.append(line[:200])
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["threads", "ray"])
def test_a_long_limit_is_slept_through_with_no_process(desk: Desk, runner: str) -> None:
    seconds = 30 if runner == "threads" else 45
    limited = Reply(status=429, headers={"Retry-After": str(seconds)}, body={"error": {"message": "slow"}})
    desk.provider.on("row 003", limited, Reply(text="late"))
    name = f"sleeper-{runner}"
    log = desk.folder / "serve.log"
    before = set(psutil.pids())
    with served(desk, name) as client:
        flow_run_id = started(desk, client, name, 12, runner=runner)
        wait_for(lambda: state_of(client, flow_run_id).name == "AwaitingRetry", log)
        awaiting = state_of(client, flow_run_id)
        refused = next(call for call in desk.provider.calls if call.status == 429)
        scheduled = awaiting.state_details.scheduled_time
        assert scheduled is not None
        assert abs(scheduled.timestamp() - (refused.at + seconds)) < 1.0
        assert "rate_limit" in (awaiting.message or "")
        deadline = time.monotonic() + 15
        while workers(before) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert workers(before) == []
        assert time.time() < refused.at + seconds
        rows = Counter(row["status"] for row in desk.read_csv("out.csv"))
        assert rows["open"] == 12 - rows["completed"] > 0
        wait_for(lambda: state_of(client, flow_run_id).is_final(), log)
        assert state_of(client, flow_run_id).name == "Completed", log.read_text()[-4000:]
        names = history(client, flow_run_id)
        again = [call for call in desk.provider.calls if call.prompt == "row 003"][1]
        assert refused.at + seconds <= again.at
    told = [name for name in names if name in ("Running", "AwaitingRetry", "Completed", "Failed", "Crashed")]
    assert told == ["Running", "AwaitingRetry", "Running", "Completed"]
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": 12}
    asked = Counter(desk.provider.prompts())
    assert asked == Counter({f"row {i:03}": 1 for i in range(12)} | {"row 003": 2})


@pytest.mark.slow
def test_a_bad_key_suspends_until_a_person_resumes(desk: Desk) -> None:
    mended: list[bool] = []
    desk.provider.on(
        lambda call: not mended and call.prompt >= "row 004",
        Reply(status=401, body={"error": {"message": "bad key"}}),
    )
    log = desk.folder / "serve.log"
    with served(desk, "suspended") as client:
        flow_run_id = started(desk, client, "suspended", 10, runner="threads")
        for mend in (False, True):
            wait_for(lambda: state_of(client, flow_run_id).name == "Suspended", log)
            suspended = state_of(client, flow_run_id)
            until = suspended.state_details.pause_timeout
            assert until is not None
            assert until.timestamp() - time.time() > 24 * 3600
            assert "authentication_failed" in (suspended.message or "")
            assert Counter(row["status"] for row in desk.read_csv("out.csv"))["completed"] == 4
            calls = len(desk.provider.calls)
            wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
            told_person = str(client.read_artifacts(artifact_filter=wanted)[0].data)
            for words in ("`fake/echo` refused", "bad key", "| wait | 6 |", "| completed | 4 |", "$0.0000"):
                assert words in told_person
            if mend:
                mended.append(True)
                told = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"))
                assert told.code == 0, told.stderr
            else:
                client.resume_flow_run(flow_run_id)
                wait_for(lambda: state_of(client, flow_run_id).name == "Running", log)
                # One row was tried, and nothing more.
                wait_for(lambda: state_of(client, flow_run_id).name == "Suspended", log)
                assert len(desk.provider.calls) - calls <= 2
        wait_for(lambda: state_of(client, flow_run_id).is_final(), log)
        assert state_of(client, flow_run_id).name == "Completed", log.read_text()[-4000:]
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": 10}
    bought = Counter(call.prompt for call in desk.provider.calls if call.status == 200)
    assert set(bought.values()) == {1}


class Inbox:
    """An address that takes notifications; ``told`` are the bodies that came."""

    def __init__(self) -> None:
        inbox = self
        self.told: list[dict[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                inbox.told.append(json.loads(self.rfile.read(size)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  likewise
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def notify(inbox: Inbox) -> None:
    """The automations of ``deployments/notify.py``, to an inbox."""
    block = CustomWebhookNotificationBlock(
        name="inbox",
        url=inbox.url,
        headers=None,
        cookies=None,
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
    )
    block.save("inbox", overwrite=True)
    script = [sys.executable, "deployments/notify.py", "custom-webhook/inbox"]
    for _ in range(2):  # The second time brings them up to date.
        done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, done.stderr
    with get_client(sync_client=True) as client:
        ours = [one for one in client.read_automations() if one.name.startswith("opencode-tasks:")]
    assert len(ours) == 4


@pytest.mark.slow
def test_a_worker_wakes_a_run_and_a_person_gives_it_a_new_budget(desk: Desk) -> None:
    desk.provider.models = {"echo": PRICED}
    limited = Reply(status=429, headers={"Retry-After": "15"}, body={"error": {"message": "slow"}})
    answer = Reply(text="fine", input_tokens=50, output_tokens=80)
    desk.provider.on("row 003", limited, answer)
    desk.provider.on("row", answer)
    log = desk.folder / "serve.log"
    with Inbox() as inbox, worked(desk) as client:
        notify(inbox)
        flow_run_id = started(desk, client, "annotate", 12, runner="threads", template=None, max_cost=0.006)
        wait_for(lambda: state_of(client, flow_run_id).name == "AwaitingRetry", log)
        wait_for(lambda: state_of(client, flow_run_id).name == "Suspended", log)
        suspended = state_of(client, flow_run_id)
        assert "budget_exceeded" in (suspended.message or "")
        assert "of $0.006 is spent" in (suspended.message or "")
        keyset = suspended.state_details.run_input_keyset
        assert keyset is not None
        form = client.filter_flow_run_input(flow_run_id, keyset["schema"], limit=1, exclude_keys=set())
        assert form[0].decoded_value["properties"]["max_cost"]["default"] == 0.006
        spent = sum(call.input_tokens * 1e-6 + call.output_tokens * 1e-5 for call in desk.provider.calls)
        assert 0.003 < spent <= 0.006
        calls = len(desk.provider.calls)
        client.resume_flow_run(flow_run_id)
        wait_for(lambda: state_of(client, flow_run_id).name == "Running", log)
        wait_for(lambda: state_of(client, flow_run_id).name == "Suspended", log)
        assert len(desk.provider.calls) == calls
        client.resume_flow_run(flow_run_id, run_input={"max_cost": 0.5})
        wait_for(lambda: state_of(client, flow_run_id).is_final(), log)
        assert state_of(client, flow_run_id).name == "Completed", log.read_text()[-4000:]
        wait_for(lambda: len(inbox.told) >= 3, log)
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": 12}
    bought = Counter(call.prompt for call in desk.provider.calls if call.status == 200)
    assert set(bought.values()) == {1}
    subjects = Counter(told["subject"] for told in inbox.told)
    assert subjects == {"annotate-dataset waits": 1, "annotate-dataset needs a person": 2}
    told = next(told["body"] for told in inbox.told if "person" in told["subject"])
    assert "of $0.006 is spent" in told
