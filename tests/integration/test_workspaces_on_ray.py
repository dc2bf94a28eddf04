"""Workspaces on a Ray of two machines that share no disk: agents fix the failing tests of repositories."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from agent_rows import TOOLS, cost_usd
from cluster import Desk
from other_machine import NAME, is_possible, other_node
from processes import kill_family
from psycopg.conninfo import conninfo_to_dict
from ray_nodes import CREDENTIALS, Cluster, head, wait_for_nodes
from repositories import applied, git, repository, state
from source_server import source_server

from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Call, Reply

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.alone,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not is_possible(), reason="this machine lets us make no second one (unshare)"),
]
CHECK = f"{sys.executable} -B -m unittest -q"
FIXED = "def total(prices):\n    return sum(prices)\n"
TEST = """import unittest
from pathlib import Path

from price import total


class Totals(unittest.TestCase):
    def test_total(self):
        self.assertEqual(total([1, 2]), int(Path("expected.txt").read_text()))
"""
SETUP = "echo 3 > expected.txt"
LIMIT_S = 300.0


@contextmanager
def two_machines(postgresql_url: str, shared: Sequence[Path] = (), *, hidden: str = "") -> Generator[Cluster]:
    """A Ray of this machine and another one, each with credentials and a CPU."""
    folders = [Path(str(conninfo_to_dict(postgresql_url)["host"])), *shared]
    more = ("--num-cpus", "1", "--resources", CREDENTIALS)
    with (
        head("--node-ip-address", "127.0.0.1", "--resources", CREDENTIALS) as address,
        other_node(address, *more, shared=folders, hidden=hidden) as other,
    ):
        made = Cluster(address, [other])
        wait_for_nodes(made, 2)
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on a disk of both machines."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(postgresql_url: str, shared: Path) -> Iterator[Cluster]:
    """Two machines for all tests that lose none."""
    with two_machines(postgresql_url, [shared]) as made:
        yield made


def broken(folder: Path, number: int) -> Path:
    """A repository whose test fails."""
    return repository(
        folder,
        {
            "price.py": FIXED.replace("(prices)\n", f"(prices) + {number + 1}\n"),
            "test_price.py": TEST,
            ".gitignore": "expected.txt\n",
        },
    )


def fixes(desk: Desk, number: int, delay_s: float = 0.0, last: Reply | None = None) -> None:
    """Script the agent of a row: it runs the test, corrects the file and answers, also if it begins again.

    ``last`` comes before the answer.
    """

    def results(call: Call) -> int:
        return sum(message.get("role") == "tool" for message in call.body["messages"])

    edit = {"filePath": "price.py", "oldString": f" + {number + 1}", "newString": ""}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("bash", {"command": CHECK, "description": "t"}),
        ("edit", edit),
    ]
    replies = [Reply(tool_calls=[call], delay_s=delay_s) for call in calls]
    for done, reply in enumerate([*replies, Reply(text=f"fixed {number}")]):

        def is_next(call: Call, done: int = done) -> bool:
            return f"fix task {number}." in json.dumps(call.body) and results(call) == done

        answers = [reply] if last is None or reply.tool_calls else [last, reply]
        desk.provider.on(is_next, *answers)


def arguments(
    desk: Desk,
    cluster: Cluster,
    ledger: str,
    *more: str,
    source: tuple[str, str] = ("--workspace", "repo"),
) -> list[str]:
    """``annotate`` of in.csv on the cluster."""
    tools = [word for tool in TOOLS for word in ("--allow-tool", tool)]
    return desk.arguments(
        *("in.csv", "-o", "out.jsonl", "--ledger", ledger, "--json", "--runner", "ray"),
        *("--ray-address", cluster.address, *source, *tools),
        *("--setup-command", SETUP, "--check-command", CHECK, *more),
    )


def rows(desk: Desk) -> list[dict[str, Any]]:
    """The rows of OUTPUT."""
    return [json.loads(line) for line in (desk.folder / "out.jsonl").read_text().splitlines()]


def hosts(ledger_url: str, run_id: str) -> dict[str, str]:
    """The machine of each row's last attempt."""
    with Ledger.open(ledger_url) as ledger:
        return {one["row_id"]: one["host"] for one in ledger.results.attempts(run_id)}


def test_ten_repositories_are_fixed_on_two_machines_without_a_shared_disk(
    desk: Desk, cluster: Cluster, shared: Path, empty_postgresql: str
) -> None:
    served = desk.folder / "served"
    sources = [broken(served / f"r{number}", number) for number in range(10)]
    git(sources[8], "tag", "v1")
    git(sources[8], "rm", "-q", "test_price.py")
    git(sources[8], "commit", "-qm", "second")
    # GitHub and others serve such archives.
    git(sources[9], "archive", "--format=tar.gz", "-o", str(served / "r9.tar.gz"), "main")
    before = [state(source) for source in sources]
    for number in range(10):
        fixes(desk, number)
    with source_server(served) as url:
        repos = [f"git+{url}/r{number}@main" for number in range(8)]
        repos += [f"git+{url}/r8@v1", f"{url}/r9.tar.gz"]
        desk.write_csv("in.csv", [{"prompt": f"fix task {n}.", "repo": repo} for n, repo in enumerate(repos)])
        more = ("--require-check", "--keep-workspaces", "all", "--artifact", "price.py")
        more = (*more, "--artifacts", str(shared / "files"), "--batch-size", "5", "--concurrency", "2")
        ran = desk.run(*arguments(desk, cluster, empty_postgresql, *more))
    assert ran.code == 0, ran.stderr + ran.stdout
    assert [state(source) for source in sources] == before
    found = rows(desk)
    where = hosts(empty_postgresql, ran.summary["run_id"])
    assert set(where.values()) == {socket.gethostname(), NAME}
    for number, row in enumerate(found):
        assert (row["status"], row["response"], row["check_passed"]) == ("completed", f"fixed {number}", True)
        assert json.loads(row["tools_called"]) == ["bash", "edit"]
        assert (row["files_changed"], row["lines_added"], row["lines_removed"]) == (1, 1, 1)
        fresh = desk.folder / f"fresh{number}"
        git(desk.folder, "clone", "-q", str(sources[number]), str(fresh))
        applied(row["diff"].encode(), fresh)
        assert (fresh / "price.py").read_text() == FIXED
        subprocess.run(
            ["sh", "-c", f"{SETUP}; git checkout -q v1 -- test_price.py" if number == 8 else SETUP],
            cwd=fresh,
            check=True,
        )
        subprocess.run(CHECK.split(), cwd=fresh, check=True, capture_output=True)
        [artifact] = json.loads(row["artifacts"])
        assert Path(artifact["url"]).read_text() == FIXED
        kept = urlsplit(row["workspace_url"])
        assert kept.netloc == (NAME if where[str(number)] == NAME else "")
        assert (Path(kept.path) / "price.py").exists() == (not kept.netloc)
    costs = sum(row["cost_usd"] for row in found)
    assert costs == pytest.approx(cost_usd(desk.provider), abs=1e-12)
    assert ran.summary["cost_usd"] == pytest.approx(costs, abs=1e-12)


def test_what_the_other_machine_does_not_have_is_said_before_anything_is_sent(
    desk: Desk, cluster: Cluster, shared: Path, empty_postgresql: str
) -> None:
    here = [broken(desk.folder / f"r{number}", number) for number in range(2)]
    both = broken(shared / "both", 0)
    repos = [str(here[0]), f"git+file://{here[1]}@main", f"{both}@main"]
    desk.write_csv("in.csv", [{"prompt": f"task {n}.", "repo": repo} for n, repo in enumerate(repos)])
    tools = desk.folder / "tools"
    tools.mkdir()
    more = ("--artifacts", "files", "--sandbox-read", str(tools))
    ran = desk.run(*arguments(desk, cluster, empty_postgresql, *more))
    assert ran.code == 2, ran.stderr
    absent = f"not on the machine {NAME} of the cluster"
    lines = [line for line in ran.stderr.splitlines() if absent in line]
    assert [line[: line.index(absent)].rpartition("--")[2] for line in lines] == [
        f"workspace: {here[0]} and 1 more: ",
        f"sandbox-read: {tools}: ",
        f"artifacts: the folder {desk.folder}/files: ",
    ], ran.stderr
    assert desk.provider.calls == []
    assert not (desk.folder / "files").exists()


def test_a_machine_that_cannot_run_rows_is_named_before_anything_is_sent(
    desk: Desk, empty_postgresql: str
) -> None:
    with two_machines(empty_postgresql, hidden="bwrap git") as cluster:
        desk.write_csv("in.csv", [{"prompt": "task"}])
        template = ("--workspace-template", str(Path(__file__).parent))
        command = arguments(desk, cluster, empty_postgresql, source=template)
        refused = [desk.run(*command, *last) for last in ((), ("--sandbox", "none"))]
    assert [ran.code for ran in refused] == [70, 70], refused
    assert f"bubblewrap is not installed on {NAME}" in refused[0].stderr
    assert f"git is not installed on {NAME}" in refused[1].stderr
    assert desk.provider.calls == []


def test_rows_of_a_lost_machine_are_done_on_the_other_one(desk: Desk, empty_postgresql: str) -> None:
    served = desk.folder / "served"
    sources = [broken(served / f"r{number}", number) for number in range(4)]
    for number in range(4):
        fixes(desk, number, delay_s=1.0)
    with two_machines(empty_postgresql) as cluster, source_server(served) as url:
        repos = [f"git+{url}/r{number}@main" for number in range(4)]
        desk.write_csv("in.csv", [{"prompt": f"fix task {n}.", "repo": repo} for n, repo in enumerate(repos)])
        command = arguments(desk, cluster, empty_postgresql, "--batch-size", "2", "--concurrency", "2")
        command += ["--artifact", "price.py"]
        with desk.start(*command, env={"OPENCODE_TASKS_LEASE": "10", "PREFECT_API_URL": None}) as process:
            run_id = wait_for_work(empty_postgresql)
            kill_family(cluster.nodes[0])
            _, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, err
    assert f"stay on the machine where their row runs ({NAME} or this one)" in err
    for number, row in enumerate(rows(desk)):
        assert (row["status"], row["response"], row["check_passed"]) == ("completed", f"fixed {number}", True)
        fresh = desk.folder / f"fresh{number}"
        git(desk.folder, "clone", "-q", str(sources[number]), str(fresh))
        applied(row["diff"].encode(), fresh)
        assert (fresh / "price.py").read_text() == FIXED
    with Ledger.open(empty_postgresql) as ledger:
        attempts = ledger.results.attempts(run_id)
    lost = {one["row_id"] for one in attempts if one["host"] == NAME and one["status"] != "completed"}
    assert lost, attempts
    again = [one for one in attempts if one["row_id"] in lost and one["host"] != NAME]
    assert {one["row_id"] for one in again if one["status"] == "completed"} == lost


def test_an_agent_of_a_lost_machine_continues_on_the_other_one(
    desk: Desk, shared: Path, empty_postgresql: str
) -> None:
    served = desk.folder / "served"
    limit = Reply(status=429, headers={"Retry-After": "3600"}, body={"error": {"message": "slow down"}})
    for number in range(2):
        broken(served / f"r{number}", number)
        fixes(desk, number, delay_s=2.0, last=limit)
    sessions = {"OPENCODE_TASKS_KEPT_SESSIONS": str(shared / "sessions"), "PREFECT_API_URL": None}
    with two_machines(empty_postgresql, [shared]) as cluster, source_server(served) as url:
        desk.write_csv(
            "in.csv", [{"prompt": f"fix task {n}.", "repo": f"git+{url}/r{n}@main"} for n in range(2)]
        )
        more = ("--batch-size", "1", "--concurrency", "2", "--no-wait")
        ran = desk.run(*arguments(desk, cluster, empty_postgresql, *more), env=sessions)
        assert ran.code == 75, ran.stderr
        run_id = ran.summary["run_id"]
        assert set(hosts(empty_postgresql, run_id).values()) == {socket.gethostname(), NAME}
        kill_family(cluster.nodes[0])
        with psycopg.connect(empty_postgresql) as database:
            database.execute("DELETE FROM gates")
            for table in ("rows", "runs"):
                database.execute(f"UPDATE {table} SET waits_until = NULL")
        ran = desk.run("resume", run_id, "--ledger", empty_postgresql, env=sessions)
        assert ran.code == 0, ran.stderr
    assert [(row["status"], row["response"]) for row in rows(desk)] == [
        ("completed", f"fixed {number}") for number in range(2)
    ]
    assert [row["check_passed"] for row in rows(desk)] == [True, True]
    assert hosts(empty_postgresql, run_id) == dict.fromkeys(("0", "1"), socket.gethostname())
    with Ledger.open(empty_postgresql) as ledger:
        attempts = ledger.results.attempts(run_id)
    assert sorted((one["attempt"], one["continues"]) for one in attempts) == [(1, None)] * 2 + [(2, 1)] * 2
    # Each step was sent once, and each answer was refused once.
    assert [call.status for call in desk.provider.calls].count(429) == 2
    assert len(desk.provider.calls) == 2 * 4
    assert [*(shared / "sessions").iterdir()] == []


def wait_for_work(ledger_url: str) -> str:
    """Wait until the agent of a row works on the other machine, and return the run."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        with Ledger.open(ledger_url) as ledger:
            for run in ledger.runs.newest():
                attempts = ledger.results.attempts(run["run_id"])
                if any(one["host"] == NAME and one["session_id"] for one in attempts):
                    return run["run_id"]
        time.sleep(0.5)
    pytest.fail("no row ran on the other machine")
