"""The flow as a deployment: it sleeps without a process until a reset time, or is suspended."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import psutil
import pytest
from agent_rows import FILES, shell
from cluster import Desk
from deployed import LIMIT_S, ROOT, history, served, started, state_of, wait_for, worked, workers
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.states import Cancelling
from repositories import git, repository, state

from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.instance_dir import instance_dirs_root
from opencode_tasks.testing import Reply

PRICED: Mapping[str, Any] = {
    "cost": {"input": 1, "output": 10},
    "limit": {"context": 100_000, "output": 100},
}


@pytest.mark.parametrize(
    "runner",
    [pytest.param("threads", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.nightly)],
)
def test_a_deployed_run_sleeps_through_a_long_rate_limit_without_a_process(desk: Desk, runner: str) -> None:
    seconds = 20 if runner == "threads" else 45
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
        # The plugin records the time of the answer in whole milliseconds.
        assert refused.at + seconds - 0.001 <= scheduled.timestamp()
        assert scheduled.timestamp() <= awaiting.timestamp.timestamp() + seconds
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
    states = [
        name for name in names if name in ("Running", "AwaitingRetry", "Completed", "Failed", "Crashed")
    ]
    assert states == ["Running", "AwaitingRetry", "Running", "Completed"]
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": 12}
    sent = Counter(desk.provider.prompts())
    assert sent == Counter({f"row {i:03}": 1 for i in range(12)} | {"row 003": 2})


@pytest.mark.nightly
def test_a_deployed_run_over_a_repository_sleeps_and_keeps_its_commit(desk: Desk) -> None:
    """A row that a rate limit cuts off in its work continues in a new process, in its workspace."""
    source = repository(desk.folder / "source", FILES)
    limited = Reply(status=429, headers={"Retry-After": "25"}, body={"error": {"message": "slow"}})
    desk.provider.on("row 000", shell("echo of 0 >> a.txt"), Reply(text="done"))
    work = shell("echo of 1 >> a.txt")
    desk.provider.on("row 001", work, limited, Reply(text="late"))
    log = desk.folder / "serve.log"
    options = {
        "runner": "threads",
        "workspace_template": f"{source}@main",
        "allow_tool": ["bash"],
        "check_command": "grep -q of a.txt",
        "output": str(desk.folder / "out.jsonl"),
    }
    with served(desk, "worker") as client:
        flow_run_id = started(desk, client, "worker", 2, **options)
        wait_for(lambda: state_of(client, flow_run_id).name == "AwaitingRetry", log)
        (source / "a.txt").write_text("moved\n")
        git(source, "commit", "-qam", "second")
        before = state(source)
        wait_for(lambda: state_of(client, flow_run_id).is_final(), log)
        assert state_of(client, flow_run_id).name == "Completed", log.read_text()[-4000:]
        names = history(client, flow_run_id)
    assert names.count("AwaitingRetry") == 1
    rows = [json.loads(line) for line in (desk.folder / "out.jsonl").read_text().splitlines()]
    assert [row["response"] for row in rows] == ["done", "late"]
    for number, row in enumerate(rows):
        assert row["check_passed"] is True
        assert row["diff"].endswith(f" one\n two\n+of {number}\n")
    assert state(source) == before
    assert not [*instance_dirs_root().glob("*/*/workspace")]


@pytest.mark.nightly
def test_an_invalid_key_suspends_the_run_until_a_person_resumes_it(desk: Desk) -> None:
    fixed: list[bool] = []
    desk.provider.on(
        lambda call: not fixed and call.prompt >= "row 004",
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
            left = {found.key: found for found in client.read_artifacts(artifact_filter=wanted)}
            report = str(left["opencode-tasks-pause"].data)
            for words in ("`fake/echo` refused", "bad key", "| open | 6 |", "| completed | 4 |", "$0.0000"):
                assert words in report
            if mend:
                fixed.append(True)
                resumed = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"))
                assert resumed.code == 0, resumed.stderr
            else:
                client.resume_flow_run(flow_run_id)
                wait_for(lambda: state_of(client, flow_run_id).name == "Running", log)
                # One row was sent, and no other.
                wait_for(lambda: state_of(client, flow_run_id).name == "Suspended", log)
                assert len(desk.provider.calls) - calls <= 2
        wait_for(lambda: state_of(client, flow_run_id).is_final(), log)
        assert state_of(client, flow_run_id).name == "Completed", log.read_text()[-4000:]
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": 10}
    completed = Counter(call.prompt for call in desk.provider.calls if call.status == 200)
    assert set(completed.values()) == {1}


@pytest.mark.nightly
@pytest.mark.parametrize(
    "is_refused",
    [False, True],
)
def test_an_expired_suspension_is_resumed_from_the_command_line(desk: Desk, is_refused: bool) -> None:
    """Before and after Prefect has turned it into a failure, as it does when it is resumed too late."""
    desk.provider.on("row", Reply(status=401, body={"error": {"message": "bad key"}}), Reply(text="mended"))
    log = desk.folder / "serve.log"
    name = f"late-{is_refused}"
    with served(desk, name, OPENCODE_TASKS_SUSPEND_TIMEOUT="1") as client:
        flow_run_id = started(desk, client, name, 1, runner="threads")
        wait_for(lambda: state_of(client, flow_run_id).name == "Suspended", log)
        time.sleep(2)
        if is_refused:
            client.resume_flow_run(flow_run_id)
            assert state_of(client, flow_run_id).name == "Failed"
        resumed = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"))
        assert resumed.code == 0, resumed.stderr
        wait_for(lambda: state_of(client, flow_run_id).name == "Completed", log)
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": 1}


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("runner", "waits"),
    [
        ("threads", False),
        ("threads", True),
        ("ray", False),
    ],
)
def test_a_cancelled_run_ends_within_seconds_and_can_be_resumed(desk: Desk, runner: str, waits: bool) -> None:
    """Cancelled with rows in flight, or while its batch is AwaitingRetry."""
    rows = 20
    if waits:
        limited = Reply(status=429, headers={"Retry-After": "55"}, body={"error": {"message": "slow"}})
        desk.provider.on("row 000", limited, Reply(text="late"))
    desk.provider.on("row", Reply(delay_s=1.0))
    log = desk.folder / "serve.log"
    name = f"cancelled-{runner}-{waits}"
    before = set(psutil.pids())
    with served(desk, name, OPENCODE_TASKS_MAX_INLINE_WAIT="60") as client:
        flow_run_id = started(desk, client, name, rows, runner=runner)
        wait_for(lambda: len(desk.provider.calls) >= (2 if waits else 6), log)
        time.sleep(3 if waits else 0)
        client.set_flow_run_state(flow_run_id, Cancelling())
        cancelled_at = time.monotonic()
        wait_for(lambda: state_of(client, flow_run_id).name == "Cancelled", log, 20)
        wait_for(lambda: workers(before) == [], log, 20)
        took_s = time.monotonic() - cancelled_at
        so_far = Counter(row["status"] for row in desk.read_csv("out.csv"))
        assert so_far["open"] == rows - so_far["completed"] > 0
        assert so_far["completed"] == sum(call.status == 200 and call.ended for call in desk.provider.calls)
        resumed = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"))
        assert resumed.code == 0, resumed.stderr
        wait_for(lambda: state_of(client, flow_run_id).is_final(), log)
        assert state_of(client, flow_run_id).name == "Completed", log.read_text()[-4000:]
    assert "opencode-tasks resume" in log.read_text()
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        assert [run["status"] for run in ledger.runs.newest()] == ["completed"]
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": rows}
    completed = Counter(call.prompt for call in desk.provider.calls if call.status == 200)
    assert completed == {f"row {i:03}": 1 for i in range(rows)}
    # Rows in flight get some seconds to end; Prefect polls every second or two.
    assert took_s < 15


class Inbox:
    """An address that accepts notifications; ``bodies`` are those that arrived."""

    def __init__(self) -> None:
        inbox = self
        self.bodies: list[dict[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                inbox.bodies.append(json.loads(self.rfile.read(size)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name of the base class
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
    """An inbox that the automations of ``deployments/notify.py`` notify."""
    block = CustomWebhookNotificationBlock(
        name="inbox",
        url=inbox.url,
        headers=None,
        cookies=None,
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
    )
    block.save("inbox", overwrite=True)
    script = [sys.executable, "deployments/notify.py", "custom-webhook/inbox"]
    for _ in range(2):  # The second call updates them.
        done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, done.stderr
    with get_client(sync_client=True) as client:
        ours = [one for one in client.read_automations() if one.name.startswith("opencode-tasks:")]
    assert len(ours) == 7


@pytest.mark.nightly
def test_a_worker_restarts_a_run_and_a_person_gives_it_a_new_budget(desk: Desk) -> None:
    desk.provider.models = {"echo": PRICED}
    limited = Reply(status=429, headers={"Retry-After": "15"}, body={"error": {"message": "slow"}})
    answer = Reply(text="fine", input_tokens=50, output_tokens=80)
    desk.provider.on("row 003", limited, answer)
    desk.provider.on("row", answer)
    log = desk.folder / "serve.log"
    with Inbox() as inbox, worked(desk) as client:
        notify(inbox)
        own = {"runner": "threads", "template": None, "choices": None, "max_cost": 0.006}
        flow_run_id = started(desk, client, "annotate", 12, **own)
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
        wait_for(lambda: len(inbox.bodies) >= 4, log)
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": 12}
    completed = Counter(call.prompt for call in desk.provider.calls if call.status == 200)
    assert set(completed.values()) == {1}
    subjects = Counter(body["subject"] for body in inbox.bodies)
    assert subjects == {
        "annotate-dataset needs a person": 2,
        "annotate-dataset has spent its budget": 2,
    }
    (budget, _) = [body["body"] for body in inbox.bodies if "budget" in body["subject"]]
    assert "of $0.006 is spent" in budget
    person = next(body["body"] for body in inbox.bodies if "person" in body["subject"])
    assert "of $0.006 is spent" in person


@pytest.mark.nightly
def test_automations_notify_people_of_many_failures_and_of_a_long_wait(desk: Desk) -> None:
    refused = Reply(status=400, body={"error": {"message": "no such thing"}})
    limited = Reply(status=429, headers={"Retry-After": "7200"}, body={"error": {"message": "slow"}})
    desk.provider.on(lambda call: call.prompt < "row 025", refused)
    desk.provider.on("row 030", limited)
    log = desk.folder / "serve.log"
    with Inbox() as inbox, served(desk, "telling") as client:
        notify(inbox)
        flow_run_id = started(desk, client, "telling", 32, runner="threads", concurrency=1)
        wait_for(lambda: state_of(client, flow_run_id).name == "AwaitingRetry", log)
        wait_for(lambda: len(inbox.bodies) >= 2, log)
        client.delete_flow_run(flow_run_id)
    subjects = {body["subject"]: body["body"] for body in inbox.bodies}
    assert set(subjects) == {"annotate-dataset fails in many rows", "annotate-dataset waits for over an hour"}
    assert "rate_limit" in subjects["annotate-dataset waits for over an hour"]
    failed = int(subjects["annotate-dataset fails in many rows"].split()[0])
    assert 20 <= failed <= 25
