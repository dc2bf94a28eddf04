"""A run that is interrupted or killed leaves only the data that it needs, and continues from there.

These commands use no Prefect API and, on Ray, their own Ray, as a run by hand does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from cluster import OWN_SERVICES, Desk
from processes import ours
from rig import AGENTS, BASH

from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.instance_dir import make_instance_dir
from opencode_tasks.testing import Call, Reply

ROWS = 24
IN_FLIGHT = 4
CLEAN_UP_S = 30


def arguments(desk: Desk, runner: str) -> list[str]:
    return [*desk.arguments("in.csv", "-o", "out.csv", "--concurrency", str(IN_FLIGHT)), "--runner", runner]


@dataclass(frozen=True, slots=True)
class Before:
    """The processes, folders of opencode and temporary folders before a command."""

    pids: set[int]
    instance_dirs: set[Path]
    folders: set[Path]


def instance_dirs() -> set[Path]:
    return set((Path(os.environ["XDG_DATA_HOME"]) / "opencode-tasks" / "opencode").glob("*"))


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("oct-*"))


def started(desk: Desk, runner: str) -> tuple[subprocess.Popen[str], Before]:
    """A command with the first answers recorded and others in flight, and the state before it."""
    desk.provider.on("row", Reply(delay_s=1.0))
    desk.write_csv("in.csv", [{"prompt": f"row {i}"} for i in range(ROWS)])
    before = Before(set(psutil.pids()), instance_dirs(), folders())
    process = desk.start(*arguments(desk, runner), env=OWN_SERVICES)
    deadline = time.monotonic() + 150
    while len(desk.provider.calls) < 2 * IN_FLIGHT:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no row was sent"
        time.sleep(0.1)
    return process, before


def left(before: Before) -> list[str]:
    """The command lines of newer processes in the private HOME of this session."""
    return [" ".join(words)[:200] for process, words in ours() if process.pid not in before.pids]


def is_clean(before: Before) -> bool:
    homes = instance_dirs() - before.instance_dirs
    return not (left(before) or folders() - before.folders or any(not marks(home) for home in homes))


def marks(home: Path) -> list[Path]:
    """The marks of the sessions that are not recorded yet."""
    return [*home.glob("unrecorded/*")]


def assert_clean(before: Before, ended_at: float) -> None:
    # The guard of a command removes its folders after it.
    while not is_clean(before) and time.monotonic() < ended_at + CLEAN_UP_S:
        time.sleep(0.1)
    assert left(before) == []
    assert folders() - before.folders == set()
    for home in instance_dirs() - before.instance_dirs:
        assert marks(home)
        assert sorted(path.name for path in home.iterdir()) == ["data", "lock", "unrecorded", "work"]
        assert home.stat().st_mode & 0o077 == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "number"),
    [
        ("threads", signal.SIGINT),
        pytest.param("threads", signal.SIGTERM, marks=pytest.mark.nightly),
        pytest.param("ray", signal.SIGINT, marks=pytest.mark.nightly),
        pytest.param("ray", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_stop_before_the_first_row_ends_the_command_at_once(
    desk: Desk, runner: str, number: signal.Signals
) -> None:
    desk.write_csv("in.csv", [{"prompt": "row 0"}])
    before = Before(set(psutil.pids()), instance_dirs(), folders())
    process = desk.start(*arguments(desk, runner), env=OWN_SERVICES)
    deadline = time.monotonic() + 60
    # The guard of the first program that the command starts: of opencode, or of Ray's folder.
    while not any("guard.py" in line for line in left(before)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, number)
    ended_at = time.monotonic()
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (130, ""), stderr
    assert stderr.splitlines() == [
        "stopping: waiting for the processes of this command to end",
        "interrupted: no row was sent; to start again, run the same command",
    ]
    assert_clean(before, ended_at)
    assert desk.provider.calls == []


def finished(desk: Desk) -> Counter[str]:
    """How often each prompt was sent, after the same command was run again to its end."""
    again = desk.run(*[*arguments(desk, "threads"), "--json"])
    assert again.code == 0, again.stderr
    assert [row["response"] for row in desk.read_csv("out.csv")] == [f"row {i}" for i in range(ROWS)]
    return Counter(desk.provider.prompts())


@pytest.mark.parametrize(
    ("runner", "stop"),
    [
        pytest.param("threads", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGINT, marks=pytest.mark.nightly),
        pytest.param("ray", signal.SIGTERM, marks=pytest.mark.nightly),
        pytest.param("threads", signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGHUP, marks=pytest.mark.nightly),
    ],
)
def test_ctrl_c_records_the_rows_in_flight_and_leaves_no_process(
    desk: Desk, runner: str, stop: signal.Signals
) -> None:
    process, before = started(desk, runner)
    if stop == signal.SIGTERM:
        process.send_signal(stop)
    else:
        # A terminal and a shell send it to all processes of the job.
        os.killpg(process.pid, stop)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "run the same command again" in stderr
    assert_clean(before, time.monotonic())
    statuses = Counter(row["status"] for row in desk.read_csv("out.csv"))
    assert statuses["completed"] >= IN_FLIGHT
    assert statuses["open"] == ROWS - statuses["completed"]
    sent = finished(desk)
    assert set(sent.values()) == {1}
    assert len(sent) == ROWS


@pytest.mark.nightly
def test_a_second_signal_ends_the_command_at_once_and_the_next_one_continues(desk: Desk) -> None:
    desk.provider.on("row 3", Reply(hang=True), Reply(text="row 3"))
    process, before = started(desk, "threads")
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    # The row that gets no answer has four seconds to end.
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "recorded\ninterrupted: finished rows are in the ledger" in stderr
    assert "Traceback" not in stderr
    assert_clean(before, time.monotonic())
    # The command was killed, so it wrote no output.
    assert not (desk.folder / "out.csv").exists()
    assert sum(finished(desk).values()) - ROWS <= IN_FLIGHT


@pytest.mark.slow
@pytest.mark.alone
def test_on_rays_own_workers_rows_wait_and_survive_a_killed_worker(desk: Desk) -> None:
    limited = Reply(status=429, headers={"Retry-After": "3"}, body={"error": {"message": "slow"}})
    desk.provider.on("row 3", limited, Reply(text="row 3"))
    process, before = started(desk, "ray")
    worker = next(found for found, words in ours() if words[0].startswith("ray::opencode-batch"))
    worker.kill()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert "Prefect" not in stderr
    assert_clean(before, time.monotonic())
    assert [row["response"] for row in desk.read_csv("out.csv")] == [f"row {i}" for i in range(ROWS)]
    # Rows in flight at the kill are sent once more, unless opencode had finished them.
    assert sum(finished(desk).values()) - ROWS <= IN_FLIGHT
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    killed = json.loads(desk.run("runs", "--json", *ledger).stdout)[-1]
    assert desk.run("audit", killed["run_id"], "--json", *ledger).summary["faults"] == []


@pytest.mark.parametrize(
    ("runner", "service", "stop"),
    [
        pytest.param("threads", "serve --hostname", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("ray", "raylet", signal.SIGINT, marks=pytest.mark.nightly),
        pytest.param("ray", "serve --hostname", signal.SIGINT, marks=pytest.mark.nightly),
        pytest.param("ray", "gcs_server", signal.SIGTERM, marks=pytest.mark.nightly),
        pytest.param("ray", "raylet", signal.SIGKILL, marks=pytest.mark.nightly),
    ],
)
def test_a_command_that_is_stopped_while_it_starts_leaves_no_process_or_file(
    desk: Desk, runner: str, service: str, stop: signal.Signals
) -> None:
    desk.write_csv("in.csv", [{"prompt": "row"}])
    before = Before(set(psutil.pids()), instance_dirs(), folders())
    process = desk.start(*arguments(desk, runner), env=OWN_SERVICES)
    deadline = time.monotonic() + 60
    while not any(service in line for line in left(before)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the service was not started"
        time.sleep(0.05)
    process.send_signal(stop)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if stop == signal.SIGKILL else 130), stderr
    assert "Traceback" not in stderr
    assert_clean(before, time.monotonic())
    assert desk.provider.calls == []


@pytest.mark.nightly
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("runner", ["threads", "ray"])
def test_a_stop_at_any_time_of_the_start_ends_the_command(
    desk: Desk, runner: str, stop: signal.Signals
) -> None:
    desk.write_csv("in.csv", [{"prompt": f"row {i}"} for i in range(400)])
    for after_s in (1.0, 1.7, 2.3, 2.7, 3.1, 3.4, 3.9, 4.7):
        before = Before(set(psutil.pids()), instance_dirs(), folders())
        process = desk.start(*arguments(desk, runner), env=OWN_SERVICES)
        time.sleep(after_s)
        process.send_signal(stop)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, (after_s, stderr)
        assert "Traceback" not in stderr, after_s
        assert_clean(before, time.monotonic())


@pytest.mark.nightly
def test_a_fault_found_by_a_worker_of_a_local_ray_is_reported_as_usual(desk: Desk) -> None:
    desk.write_csv("in.csv", [{"prompt": "row"}])
    before = Before(set(psutil.pids()), instance_dirs(), folders())
    wrong = ["fake/nope" if word == "fake/echo" else word for word in arguments(desk, "ray")]
    ran = desk.run(*wrong, "--batch-size", "0", env=OWN_SERVICES)
    assert ran.code == 2, ran.stderr
    assert "fake/echo" in ran.stderr
    assert "--batch-size" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert_clean(before, time.monotonic())


@pytest.mark.nightly
@pytest.mark.parametrize(
    "backend",
    ["server", "cli"],
)
def test_the_finished_steps_of_an_interrupted_agent_are_counted(desk: Desk, backend: str) -> None:
    def has_result(call: Call) -> bool:
        return any(message.get("role") == "tool" for message in call.body.get("messages", []))

    desk.provider.on(has_result, Reply(hang=True))
    desk.provider.on("row", Reply(tool_calls=[BASH], input_tokens=50, output_tokens=7))
    desk.write_csv("in.csv", [{"prompt": "row 0"}])
    command = [*arguments(desk, "threads"), "--agent", "worker", "--backend", backend]
    config = Path(command[command.index("--opencode-config") + 1])
    config.write_text(json.dumps(json.loads(config.read_text()) | {"agent": AGENTS}))
    process = desk.start(*command)
    deadline = time.monotonic() + 120
    while len(desk.provider.calls) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        (charge,) = ledger.reports.charges()
        (unsure,) = ledger.reports.unreported()
    assert (charge["input_tokens"], charge["output_tokens"]) == (50, 7)
    assert charge["cost_pico"] == 50 * 10**6 + 7 * 2 * 10**6
    # A call over the whole context (1,000,000 tokens, written to the cache) and the longest answer.
    assert unsure["at_most_pico"] == 1_000_000 * 1_250_000 + 4096 * 2_000_000


@pytest.mark.nightly
@pytest.mark.parametrize(
    "runner",
    ["threads", "ray"],
)
def test_a_killed_driver_leaves_no_process_and_few_rows_are_sent_twice(desk: Desk, runner: str) -> None:
    process, before = started(desk, runner)
    process.kill()
    killed_at = time.monotonic()
    process.communicate(timeout=30)
    assert_clean(before, killed_at)
    sent = finished(desk)
    assert len(sent) == ROWS
    assert sum(sent.values()) - ROWS <= IN_FLIGHT


@pytest.mark.nightly
def test_a_session_that_a_killed_driver_had_not_recorded_is_found_on_the_disk(desk: Desk) -> None:
    desk.provider.on("row", Reply(delay_s=2.0, input_tokens=11))
    desk.write_csv("in.csv", [{"prompt": f"row {i}"} for i in range(IN_FLIGHT)])
    before = Before(set(psutil.pids()), instance_dirs(), folders())
    process = desk.start(*arguments(desk, "threads"), env=OWN_SERVICES)
    deadline = time.monotonic() + 120
    while len(desk.provider.calls) < IN_FLIGHT:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)
    while not all(call.ended for call in desk.provider.calls):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2)
    process.kill()
    killed_at = time.monotonic()
    process.communicate(timeout=30)
    # As if it had died after the sessions began and before they were recorded.
    with closing(sqlite3.connect(desk.folder / "ledger.db")) as database, database:
        of_open = "SET session_id = NULL, data_dir = NULL WHERE ended_at IS NULL"
        assert database.execute(f"UPDATE attempts {of_open}").rowcount == IN_FLIGHT
    assert_clean(before, killed_at)
    resumed = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"), env=OWN_SERVICES)
    assert resumed.code == 0, resumed.stderr
    assert [(row["status"], row["input_tokens"]) for row in desk.read_csv("out.csv")] == [
        ("completed", "11")
    ] * IN_FLIGHT
    assert Counter(desk.provider.prompts()) == {f"row {i}": 1 for i in range(IN_FLIGHT)}
    assert instance_dirs() == before.instance_dirs


@pytest.mark.nightly
def test_the_data_of_a_killed_process_for_an_ended_attempt_is_removed_by_the_next_run(desk: Desk) -> None:
    desk.write_csv("in.csv", [{"prompt": "row 1"}, {"prompt": "row 2"}])
    assert desk.annotate("in.csv", "-o", "out.csv").code == 0
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        [run] = ledger.runs.newest()
        first, second = ledger.results.attempts(run["run_id"])
    # As if it had died after the commit of the rows and before the removal of the marks.
    before = instance_dirs()
    recorded, shared = make_instance_dir(), make_instance_dir()
    recorded.mark("ses_1", first["attempt_id"])
    shared.mark("ses_2", second["attempt_id"])
    shared.mark("ses_3", "an attempt of another ledger")
    for home in (recorded, shared):
        home.release()
    desk.write_csv("in.csv", [{"prompt": "row 3"}])
    assert desk.annotate("in.csv", "-o", "out.csv").code == 0
    assert instance_dirs() - before == {shared.root}
    assert [mark.name for mark in shared.marks.iterdir()] == ["ses_3"]
    shutil.rmtree(shared.root)


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL])
def test_no_other_process_sends_the_rows_of_one_that_is_stopped(desk: Desk, end: signal.Signals) -> None:
    desk.provider.on("row", Reply(delay_s=6.0))
    desk.write_csv("in.csv", [{"prompt": f"row {i}"} for i in range(3)])
    lease = OWN_SERVICES | {"OPENCODE_TASKS_LEASE": "5"}
    first = desk.start(*desk.arguments("in.csv", "-o", "out.csv", "--concurrency", "2"), env=lease)
    deadline = time.monotonic() + 60
    while len(desk.provider.calls) < 2:
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)
    # Longer than the lease and than the answers take.
    time.sleep(7)
    second = desk.start("resume", "--ledger", str(desk.folder / "ledger.db"), env=lease)
    assert second.stderr is not None
    said = next(line for line in second.stderr if "is stopped" in line)
    assert f"process {first.pid}" in said
    assert f"kill -CONT {first.pid}" in said
    # Long enough for a lease that is extended once only to expire.
    time.sleep(7)
    assert set(Counter(desk.provider.prompts()).values()) == {1}
    first.send_signal(end)
    _, stderr = second.communicate(timeout=60)
    assert second.returncode == 0, stderr
    _, stderr = first.communicate(timeout=60)
    assert first.returncode == (0 if end is signal.SIGCONT else -signal.SIGKILL), stderr
    assert [row["response"] for row in desk.read_csv("out.csv")] == [f"row {i}" for i in range(3)]
    again = 0 if end is signal.SIGCONT else 1
    assert Counter(desk.provider.prompts()) == {"row 0": 1 + again, "row 1": 1 + again, "row 2": 1}


@pytest.mark.nightly
def test_a_killed_opencode_server_is_restarted(desk: Desk) -> None:
    process, before = started(desk, "threads")
    servers = [process for process, words in ours() if process.pid not in before.pids and "serve" in words]
    assert servers
    servers[0].kill()
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout.startswith(f"{ROWS} completed")
    assert sum(Counter(desk.provider.prompts()).values()) - ROWS <= IN_FLIGHT
    assert_clean(before, time.monotonic())


@pytest.mark.nightly
@pytest.mark.parametrize("inline_wait", ["60", "1"])
def test_ctrl_c_ends_a_wait_and_resume_continues(desk: Desk, inline_wait: str) -> None:
    limited = Reply(status=429, headers={"Retry-After": "30"}, body={"error": {"message": "slow down"}})
    desk.provider.on("row 2", limited, Reply(text="late"))
    desk.write_csv("in.csv", [{"prompt": f"row {i}"} for i in range(3)])
    before = Before(set(psutil.pids()), instance_dirs(), folders())
    env = OWN_SERVICES | {"OPENCODE_TASKS_MAX_INLINE_WAIT": inline_wait}
    process = desk.start(*arguments(desk, "threads"), env=env)
    deadline = time.monotonic() + 90
    while len(desk.provider.calls) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(3)
    interrupted_at = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - interrupted_at < 15
    assert process.returncode == 130, stderr
    assert "opencode-tasks resume" in stderr
    assert_clean(before, time.monotonic())
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": 2, "open": 1}
    again = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"), env=OWN_SERVICES)
    assert again.code == 0, again.stderr
    assert Counter(desk.provider.prompts()) == {"row 0": 1, "row 1": 1, "row 2": 2}
