"""An agent that is interrupted continues its session and its workspace: no step is paid for twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from agent_rows import FILES, TOOLS, Work, shell
from cluster import Desk
from engine_runs import setting
from repositories import repository

from opencode_tasks.domain.hold import Hold
from opencode_tasks.engine.audit import Audit, audit
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.backend import KeptSession
from opencode_tasks.opencode.instance_dir import InstanceDir, instance_dirs_root
from opencode_tasks.opencode.session_store import SessionStore
from opencode_tasks.testing import Call, Reply, ScriptedProvider
from opencode_tasks.workspace.file_store import FileStore

STEPS = 5
# What an undisturbed run sends: each step, and the request of the answer.
CALLS = STEPS + 1


def limited(status: int = 429, after_s: float = 1.0) -> Reply:
    """A refusal that ends soon."""
    return Reply(
        status=status, headers={"Retry-After": f"{after_s:g}"}, body={"error": {"message": "slow down"}}
    )


def steps(count: int = STEPS, *, first: int = 1) -> list[Reply]:
    """Calls of the tool ``bash``, each of which adds its number to a file."""
    return [shell(f"echo {number} >> a.txt") for number in range(first, first + count)]


class Agent(Work):
    """A row whose agent works in five steps, and is interrupted."""

    def works(self, *replies: Reply, **options: Any) -> dict[str, Any]:
        """The row of a run whose agent gets these replies, then an answer."""
        self.does(0, *replies)
        self.rows(repo=[str(repository(self.folder / "source", FILES))])
        # The plugin leaves no wait to opencode, as it does with a long one.
        with setting("MAX_INLINE_WAIT", "0.1"):
            plan = self.plan(workspace="repo", **options)
            return self.execute(plan, on_hold=wait).frame.to_dict("records")[0]

    def ends(self) -> list[tuple[Any, ...]]:
        """How the attempts ended and began."""
        names = ("error_type", "error_message", "continues", "begins_anew")
        return [tuple(one[name] for name in names) for one in self.attempts()]

    def audited(self) -> Audit:
        """The audit of the newest run."""
        with Ledger.open(self.ledger_url) as ledger:
            found = audit(ledger, self.run()["run_id"])
        assert found is not None
        return found


def wait(run_id: str, hold: Hold) -> None:
    """Wait as a command does."""
    del run_id
    time.sleep(max(0.0, hold.remaining_s(datetime.now(UTC)) or 0.0))


@pytest.fixture
def agent(tmp_path: Path, provider: ScriptedProvider, opencode_binary: Path) -> Iterator[Agent]:
    """A row in a workspace; nothing of it is left on the disk at the end."""
    yield Agent(tmp_path, provider, opencode_binary)
    assert not [*instance_dirs_root().glob("*/*/unrecorded/*")]


def eventually(holds: Callable[[], bool], limit_s: float = 150.0) -> bool:
    """Whether something holds within a time."""
    deadline = time.monotonic() + limit_s
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def answered(provider: ScriptedProvider) -> list[Call]:
    """The requests that were answered, which a provider charges for."""
    return [call for call in provider.calls if call.status == 200]


def cost_pico(calls: list[Call]) -> int:
    """What the provider charges: the prices of ``echo`` are 1 and 2 dollars per million tokens."""
    return sum(call.input_tokens * 10**6 + call.output_tokens * 2 * 10**6 for call in calls)


def messages(call: Call) -> list[dict[str, Any]]:
    """The conversation of a request."""
    return [{k: m.get(k) for k in ("role", "content", "tool_calls")} for m in call.body["messages"]]


def check_as_undisturbed(agent: Agent, row: dict[str, Any]) -> None:
    """The row, its changes and its cost are those of a run without an interruption."""
    assert (row["status"], row["response"]) == ("completed", "done"), row
    assert row["diff"].endswith("".join(f"+{number}\n" for number in range(1, STEPS + 1)))
    assert row["lines_added"] == STEPS
    calls = answered(agent.provider)
    assert len(calls) == CALLS
    assert row["cost_usd"] * 1e12 == pytest.approx(cost_pico(calls))
    assert row["input_tokens"] == sum(call.input_tokens for call in calls)
    found = agent.audited()
    assert (found.faults, found.requests, found.cost_pico) == ([], CALLS, cost_pico(calls))


@pytest.mark.slow
@pytest.mark.parametrize("sandbox", [None, pytest.param("none", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("status", [429, pytest.param(503, marks=pytest.mark.nightly)])
def test_an_agent_that_meets_a_limit_continues_its_session(
    agent: Agent, status: int, sandbox: str | None
) -> None:
    # Less than twice the cost of the first steps: they count once.
    row = agent.works(*steps(), limited(status), sandbox=sandbox, max_row_cost=1e-4)
    check_as_undisturbed(agent, row)
    first, second = agent.attempts()
    assert (first["continues"], first["begins_anew"]) == (None, None)
    assert (second["continues"], second["begins_anew"], second["session_id"]) == (
        1,
        None,
        first["session_id"],
    )
    refused, repeated = agent.provider.calls[STEPS : STEPS + 2]
    assert refused.status == status
    # The model sees the request that was refused, and nothing else.
    assert messages(repeated) == messages(refused)
    found = agent.audited()
    assert (found.repeated, found.continued, found.at_most_pico) == ([], 1, found.cost_pico)


def opencode_of_rows(command: str) -> list[psutil.Process]:
    """The processes of opencode with this command, without those that hold their sandboxes."""
    root = str(instance_dirs_root())
    found = psutil.process_iter(["cmdline", "cwd"])
    return [
        process
        for process in found
        if (process.info["cmdline"] or [])[1:2] == [command]
        and any(word and word.startswith(root) for word in (process.info["cwd"], *process.info["cmdline"]))
    ]


@pytest.mark.nightly
@pytest.mark.parametrize(
    "in_flight",
    [
        Reply(hang=True),
        # Its call is paid for, and its file is written: neither is done again.
        pytest.param(shell("echo 5 >> a.txt; touch started; sleep 100"), marks=pytest.mark.nightly),
        pytest.param(Reply(text="half", chunks=2, chunk_delay_s=60), marks=pytest.mark.nightly),
    ],
)
def test_an_agent_whose_opencode_is_killed_continues_its_session(agent: Agent, in_flight: Reply) -> None:
    is_tool = bool(in_flight.tool_calls)
    done = STEPS - is_tool
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(agent.works, *steps(done), in_flight)
        assert eventually(lambda: len(agent.provider.calls) == done + 1)
        if is_tool:
            assert eventually(lambda: bool([*instance_dirs_root().glob("*/*/workspace/started")]))
        (opencode,) = opencode_of_rows("run")
        opencode.kill()
        row = running.result()
    assert (row["status"], row["response"]) == ("completed", "done"), row
    assert row["diff"].count("+1\n+2\n+3\n+4\n+5\n") == 1
    first, second = agent.attempts()
    assert (first["error_type"], first["usage_known"]) == ("unknown", False)
    assert (second["continues"], second["session_id"]) == (1, first["session_id"])
    # The calls of an undisturbed run, and the one that was in flight.
    calls = agent.provider.calls
    assert len(calls) == CALLS + (not is_tool)
    others = [call for call in calls if call is not calls[done]]
    assert messages(calls[-1]) == messages(calls[done]) or is_tool
    found = agent.audited()
    assert (found.faults, found.requests, found.cost_pico) == ([], len(others), cost_pico(others))
    (lost,) = found.repeated
    assert (lost.requests, lost.cost_pico) == (0, 0)
    assert lost.at_most_pico is not None
    assert lost.at_most_pico > 0
    if is_tool:
        assert "[Tool execution was interrupted]" in json.dumps(calls[-1].body)


@pytest.mark.nightly
def test_an_agent_continues_while_its_worker_has_other_rows_in_flight(agent: Agent) -> None:
    source = str(repository(agent.folder / "source", FILES))
    agent.does(0, Reply(text="slow", delay_s=40))
    agent.does(1, *steps(2), Reply(hang=True))
    agent.rows(repo=[source, source])
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(agent.execute, agent.plan(workspace="repo"))
        assert eventually(lambda: len(agent.provider.calls) == 4)
        (opencode,) = (one for one in opencode_of_rows("run") if any(w.endswith(" 1") for w in one.cmdline()))
        opencode.kill()
        rows = running.result().frame.to_dict("records")
    assert [row["status"] for row in rows] == ["completed", "completed"]
    assert rows[1]["diff"].endswith("+1\n+2\n")
    assert [one["continues"] for one in agent.attempts()] == [None, None, 1]
    assert len(agent.provider.calls) == 5
    assert agent.audited().faults == []


@pytest.mark.nightly
def test_a_session_that_fails_again_is_given_up_once(agent: Agent) -> None:
    refused = Reply(status=400, body={"error": {"message": "this conversation cannot be continued"}})
    row = agent.works(*steps(2), limited(), refused, *steps(2), limited(), refused, Reply(text="never"))
    assert (row["status"], row["error_type"]) == ("failed", "invalid_request")
    # The work of the last session is in the row.
    assert row["diff"].endswith("+1\n+2\n")
    found = [(one["error_type"], one["continues"], one["begins_anew"]) for one in agent.attempts()]
    assert found == [
        ("rate_limit", None, None),
        ("invalid_request", 1, None),
        ("rate_limit", None, "attempt 2 made no step in the session that it continued"),
        ("invalid_request", 3, None),
    ]
    assert row["cost_usd"] * 1e12 == pytest.approx(cost_pico(answered(agent.provider)))
    assert agent.audited().faults == []


@pytest.mark.nightly
def test_the_correction_of_a_failed_check_continues_too(agent: Agent) -> None:
    row = agent.works(
        shell("echo wrong > result.txt"),
        Reply(text="first"),
        limited(),
        shell("echo right > result.txt"),
        check_command="grep right result.txt",
        check_retries=1,
        keep_workspaces="all",
    )
    assert (row["status"], row["response"], row["check_passed"]) == ("completed", "done", True)
    assert Path(row["workspace_url"].removeprefix("file://"), "result.txt").read_text() == "right\n"
    assert [call.status for call in agent.provider.calls] == [200, 200, 429, 200, 200]
    refused, repeated = agent.provider.calls[2:4]
    assert "The check of your work failed" in refused.prompt
    assert messages(repeated) == messages(refused)
    assert agent.audited().cost_pico == cost_pico(answered(agent.provider))


@pytest.mark.slow
@pytest.mark.parametrize("is_killed", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_an_agent_on_a_shared_server_continues_its_session(agent: Agent, *, is_killed: bool) -> None:
    said = [shell(f"echo {number} >> log.txt; cat log.txt") for number in range(1, STEPS + 1)]
    agent.does(0, *said, Reply(hang=True) if is_killed else limited())
    agent.rows()
    with setting("MAX_INLINE_WAIT", "0.1"), ThreadPoolExecutor(1) as pool:
        # A call that was cut short counts by its upper bound.
        plan = agent.plan(backend="server", sandbox="none", max_row_cost=1.0 if is_killed else 2e-4)
        running = pool.submit(agent.execute, plan, on_hold=wait)
        if is_killed:
            assert eventually(lambda: len(agent.provider.calls) == CALLS)
            servers = opencode_of_rows("serve")
            (server,) = (one for one in servers if [*Path(one.cwd()).parent.glob("unrecorded/*")])
            server.kill()
        row = running.result().frame.to_dict("records")[0]
    assert (row["status"], row["response"]) == ("completed", "done"), (row["error_message"], agent.ends())
    interrupted, repeated = agent.provider.calls[STEPS:]
    assert messages(repeated) == messages(interrupted)
    assert "1\\n2\\n3\\n4\\n5" in json.dumps(messages(repeated))
    first, second = agent.attempts()
    assert (second["continues"], second["session_id"]) == (1, first["session_id"])
    # The message that was interrupted counts.
    assert row["turns"] == CALLS + 1
    found = agent.audited()
    paid = cost_pico(answered(agent.provider))
    assert (found.faults, found.requests, found.cost_pico) == ([], CALLS, paid)


class Command(NamedTuple):
    """A command over one row, whose agent is interrupted in its sixth request."""

    desk: Desk
    source: Path

    def start(self, *options: str) -> subprocess.Popen[str]:
        self.desk.write_csv("in.csv", [{"prompt": "do task 0.", "repo": str(self.source)}])
        tools = [word for tool in TOOLS for word in ("--allow-tool", tool)]
        return self.desk.start(
            *self.desk.arguments("in.csv", "-o", "out.csv", "--workspace", "repo", *tools, *options),
            env={"OPENCODE_TASKS_MAX_INLINE_WAIT": "0.1"},
        )

    def sleep(self, *options: str) -> None:
        """Run until the rate limit, whose time has passed afterwards."""
        with self.start("--no-wait", *options) as process:
            _, stderr = process.communicate(timeout=200)
        assert process.returncode == 75, stderr
        with closing(sqlite3.connect(self.ledger)) as database, database:
            database.execute("DELETE FROM gates")
            for table in ("rows", "runs"):
                database.execute(f"UPDATE {table} SET waits_until = NULL")

    def resume(self) -> dict[str, str]:
        """The row after a resume, which is a new process."""
        ran = self.desk.run("resume", "--ledger", self.ledger)
        assert ran.code == 0, ran.stderr
        (row,) = self.desk.read_csv("out.csv")
        return row

    @property
    def ledger(self) -> str:
        return str(self.desk.folder / "ledger.db")

    def attempts(self) -> list[dict[str, Any]]:
        with Ledger.open(self.ledger) as ledger:
            run_id = ledger.runs.newest()[0]["run_id"]
            return sorted(ledger.results.attempts(run_id), key=lambda one: one["attempt"])

    def shown(self) -> str:
        """What the command ``show`` prints of the row."""
        with Ledger.open(self.ledger) as ledger:
            run_id = ledger.runs.newest()[0]["run_id"]
        return self.desk.run("show", run_id, "0", "--ledger", self.ledger).stdout

    def audit(self) -> dict[str, Any]:
        with Ledger.open(self.ledger) as ledger:
            run_id = ledger.runs.newest()[0]["run_id"]
        return self.desk.run("audit", run_id, "--json", "--ledger", self.ledger).summary


@pytest.fixture
def command(desk: Desk) -> Iterator[Command]:
    """A command; nothing of its row is left on the disk at the end."""
    yield Command(desk, repository(desk.folder / "source", FILES))
    assert not [*instance_dirs_root().glob("*/*/unrecorded/*")]


def scripted(desk: Desk, *replies: Reply) -> None:
    desk.provider.on(lambda call: "do task 0." in json.dumps(call.body), *replies, Reply(text="done"))


def check_resumed(command: Command, row: dict[str, str]) -> None:
    """A row that was interrupted in its sixth request has the work and the cost of an undisturbed one."""
    assert (row["status"], row["response"]) == ("completed", "done")
    assert row["diff"].endswith("".join(f"+{number}\n" for number in range(1, STEPS + 1)))
    calls = answered(command.desk.provider)
    assert len(calls) == CALLS
    assert len(command.desk.provider.calls) == CALLS + 1
    assert float(row["cost_usd"]) * 1e12 == pytest.approx(cost_pico(calls))
    assert command.attempts()[-1]["continues"] == 1
    assert "attempt 2: completed, continued the session of attempt 1" in command.shown()
    found = command.audit()
    assert (found["faults"], found["requests"], found["continued"]) == ([], CALLS, 1)


@pytest.mark.slow
@pytest.mark.parametrize("sandbox", [(), pytest.param(("--sandbox", "none"), marks=pytest.mark.nightly)])
def test_an_agent_whose_command_is_killed_continues_with_a_resume(
    command: Command, sandbox: tuple[str, ...]
) -> None:
    scripted(command.desk, *steps(), Reply(hang=True))
    with command.start(*sandbox) as process:
        assert eventually(lambda: len(command.desk.provider.calls) == CALLS)
        process.kill()
    row = command.resume()
    assert command.attempts()[0]["error_type"] == "crashed"
    check_resumed(command, row)


@pytest.mark.slow
def test_an_agent_whose_run_sleeps_continues_in_another_process(command: Command) -> None:
    scripted(command.desk, *steps(), limited(after_s=3600))
    command.sleep()
    # While it sleeps, the session and the workspace are on the disk, and no key is.
    (mark,) = instance_dirs_root().glob("*/*/unrecorded/*")
    folder = mark.parents[1]
    assert (folder / "workspace" / "a.txt").read_text().endswith("4\n5\n")
    assert not (folder / "run").exists()
    assert not [*folder.rglob("auth.json")]
    row = command.resume()
    check_resumed(command, row)


@pytest.mark.nightly
def test_an_agent_that_is_stopped_continues_with_a_resume(command: Command) -> None:
    scripted(command.desk, *steps(), Reply(hang=True))
    with command.start() as process:
        assert eventually(lambda: len(command.desk.provider.calls) == CALLS)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    row = command.resume()
    assert command.attempts()[0]["error_type"] == "interrupted"
    check_resumed(command, row)


@pytest.mark.nightly
def test_an_agent_whose_machine_is_gone_begins_anew_and_says_so(command: Command) -> None:
    scripted(command.desk, *steps(), limited(after_s=3600), *steps())
    command.sleep()
    (mark,) = instance_dirs_root().glob("*/*/unrecorded/*")
    shutil.rmtree(mark.parents[2])
    row = command.resume()
    assert (row["status"], row["response"]) == ("completed", "done")
    assert row["diff"].endswith("".join(f"+{number}\n" for number in range(1, STEPS + 1)))
    assert len(command.desk.provider.calls) == STEPS + 1 + CALLS
    reason = "the session of attempt 1 is not on this machine any more"
    assert command.attempts()[-1]["begins_anew"] == reason
    assert f"attempt 2: completed, began anew: {reason}" in command.shown()
    found = command.audit()
    assert (found["faults"], found["continued"], len(found["repeated"])) == ([], 0, 1)


def move_to_another_machine(command: Command) -> None:
    """From now on, the ledger says that the session was left on a machine with another disk."""
    (mark,) = instance_dirs_root().glob("*/*/unrecorded/*")
    shutil.rmtree(mark.parents[2])
    with closing(sqlite3.connect(command.ledger)) as database, database:
        database.execute("UPDATE attempts SET host = 'elsewhere'")


def stored(folder: Path) -> list[Path]:
    """The archives of a folder with stored sessions."""
    return [*folder.glob("*.tar.gz")] if folder.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("sandbox", [(), pytest.param(("--sandbox", "none"), marks=pytest.mark.nightly)])
def test_an_agent_continues_on_another_machine_with_a_shared_folder(
    command: Command, sandbox: tuple[str, ...]
) -> None:
    folder = command.desk.folder / "sessions"
    command.desk.env["OPENCODE_TASKS_KEPT_SESSIONS"] = "sessions"
    # Links that lead out, files of others and those without permissions come along; a pipe does not.
    odd = (
        "ln -s /usr/bin/env tool; mkdir sub; ln -s ../a.txt sub/l; mkfifo pipe; ln a.txt b.txt; chmod 500 sub"
    )
    scripted(command.desk, *steps(STEPS - 1), shell(f"echo 5 >> a.txt; {odd}"), limited(after_s=3600))
    command.sleep(*sandbox)
    (archive,) = stored(folder)
    with tarfile.open(archive) as opened:
        names = set(opened.getnames())
    assert {"workspace/a.txt", "workspace/tool"} < names
    assert not [name for name in names if name.startswith("run") or name.endswith("auth.json")]
    move_to_another_machine(command)
    row = command.resume()
    assert (row["status"], row["response"]) == ("completed", "done")
    assert all(f"+++ b/{name}\n" in row["diff"] for name in ("b.txt", "tool", "sub/l", "a.txt"))
    assert "+1\n+2\n+3\n+4\n+5\n" in row["diff"]
    assert command.attempts()[-1]["continues"] == 1
    assert len(answered(command.desk.provider)) == CALLS
    found = command.audit()
    assert (found["faults"], found["requests"], found["continued"]) == ([], CALLS, 1)
    assert stored(folder) == []


@pytest.mark.nightly
def test_sessions_are_stored_in_s3(command: Command, s3: str) -> None:
    command.desk.env["OPENCODE_TASKS_KEPT_SESSIONS"] = f"{s3}/sessions"
    scripted(command.desk, *steps(), limited(after_s=3600))
    command.sleep()
    assert len(FileStore(f"{s3}/sessions").names()) == 1
    move_to_another_machine(command)
    check_resumed(command, command.resume())
    assert FileStore(f"{s3}/sessions").names() == []


@pytest.mark.nightly
@pytest.mark.parametrize("damage", [None, b"no archive"])
def test_a_session_that_is_not_stored_any_more_begins_anew(command: Command, damage: bytes | None) -> None:
    folder = command.desk.folder / "sessions"
    command.desk.env["OPENCODE_TASKS_KEPT_SESSIONS"] = str(folder)
    scripted(command.desk, *steps(), limited(after_s=3600), *steps())
    command.sleep()
    (archive,) = stored(folder)
    archive.unlink() if damage is None else archive.write_bytes(damage)
    move_to_another_machine(command)
    row = command.resume()
    assert (row["status"], row["response"]) == ("completed", "done")
    reason = "the session of attempt 1 is on the machine elsewhere"
    assert command.attempts()[-1]["begins_anew"] == reason
    assert command.audit()["faults"] == []


def test_a_stored_session_makes_no_link_through_another_link(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", instance_dirs_root() / tmp_path.name
    outside.mkdir()
    (tmp_path / "files").mkdir()
    with tarfile.open(tmp_path / "files" / "left.tar.gz", "w:gz") as archive:
        for name, target in (("workspace", None), ("workspace/l", outside), ("workspace/l/evil", "x")):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if target is None else tarfile.SYMTYPE
            member.linkname = str(target or "")
            archive.addfile(member)
    store = SessionStore(FileStore(str(tmp_path / "files")))
    kept = KeptSession(session_id="ses_1", data_dir=root / "data", left_by="left")
    assert not store.fetch(kept, InstanceDir(root=root))
    assert not [*outside.iterdir()]
    assert not root.exists()


@pytest.mark.nightly
def test_a_stored_session_of_a_row_with_an_outcome_is_removed(command: Command) -> None:
    folder = command.desk.folder / "sessions"
    command.desk.env["OPENCODE_TASKS_KEPT_SESSIONS"] = str(folder)
    scripted(command.desk, *steps(), limited(after_s=3600))
    command.sleep()
    (archive,) = stored(folder)
    text = archive.read_bytes()
    check_resumed(command, command.resume())
    # As if the process had been killed before it removed the archive; one of another ledger stays.
    archive.write_bytes(text)
    (folder / "of-another-ledger.tar.gz").write_bytes(text)
    with command.start("--refresh") as process:
        process.communicate(timeout=200)
    assert stored(folder) == [folder / "of-another-ledger.tar.gz"]


@pytest.mark.slow
def test_a_folder_for_sessions_that_cannot_be_written_is_refused_before_a_row_is_sent(
    command: Command,
) -> None:
    (command.desk.folder / "file").touch()
    command.desk.env["OPENCODE_TASKS_KEPT_SESSIONS"] = "file/sessions"
    with command.start() as process:
        _, stderr = process.communicate(timeout=200)
    assert process.returncode == 70, stderr
    assert "OPENCODE_TASKS_KEPT_SESSIONS: cannot write" in stderr
    assert "Traceback" not in stderr
    assert command.desk.provider.calls == []


@pytest.mark.nightly
def test_a_continued_session_has_the_files_of_its_row(agent: Agent) -> None:
    document = agent.folder / "report.txt"
    document.write_text("the text of the document")
    agent.does(0, *steps(2), limited(), *steps(1, first=3))
    agent.rows(repo=[str(repository(agent.folder / "source", FILES))], document=[str(document)])
    with setting("MAX_INLINE_WAIT", "0.1"):
        plan = agent.plan(workspace="repo", file=("document",))
        row = agent.execute(plan, on_hold=wait).frame.to_dict("records")[0]
    assert (row["status"], row["response"]) == ("completed", "done"), row
    assert row["diff"].endswith("+1\n+2\n+3\n")
    assert agent.attempts()[1]["continues"] == 1
    assert [json.dumps(call.body).count("the text of the document") for call in agent.provider.calls] == [
        1
    ] * 5
    refused, repeated = agent.provider.calls[2:4]
    assert messages(repeated) == messages(refused)
