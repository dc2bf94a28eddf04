"""What a server leaves behind, however its owner ends: nothing, but the data of unrecorded sessions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from opencode_tasks.system import GuardedProcess
from opencode_tasks.testing import Reply, ScriptedProvider

LIMIT_S = 10.0
START_LIMIT_S = 90.0

OWNER = """
import json, os, sys, threading, time
from pathlib import Path
from opencode_tasks.opencode.backend import Clocks, OpencodeSpec, Request
from opencode_tasks.opencode.server_pool import server_pool

binary, config, ending = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
spec = OpencodeSpec(binary=binary, config=config, model_ref="fake/echo")

async def one(prompt, recorded):
    async with server_pool.use(spec, "server", frozenset()) as backend:
        result = await backend.run(Request(prompt=prompt, model_ref="fake/echo"), lambda s: None)
        if recorded:
            backend.release_session(result.session_id)
        return backend.server

server = server_pool.call(one, "first", ending != "unrecorded")
print(json.dumps({"pid": server.process.pid, "home": str(server.instance_dir.root)}), flush=True)
if ending == "killed":
    threading.Thread(target=server_pool.call, args=(one, "hangs", True), daemon=True).start()
    time.sleep(600)
if ending == "exception":
    raise RuntimeError("an end with an exception")
if ending == "exit":
    sys.exit(3)
"""

# A local MCP server that is hard to end: it leaves its group and ignores SIGTERM.
STUBBORN = """
import json, os, signal, sys
from pathlib import Path

signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setsid() if os.getpgrp() != os.getpid() else None
Path(sys.argv[1]).write_text(str(os.getpid()))
for line in sys.stdin:
    call = json.loads(line)
    if "id" not in call:
        continue
    version = call.get("params", {}).get("protocolVersion")
    answers = {
        "initialize": {
            "protocolVersion": version,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "stubborn", "version": "1"},
        },
        "tools/list": {"tools": []},
    }
    result = answers.get(call["method"], {})
    print(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}), flush=True)
signal.pause()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """A process of a test's own with a warm server, and what it started."""

    owner: subprocess.Popen[str]
    server: int
    home: Path
    mcp: Callable[[], int | None]

    def pids(self) -> list[int]:
        """The processes of the family that still run."""
        found = [self.owner.pid, self.server, self.mcp()]
        return [pid for pid in found if pid is not None and is_running(pid)]


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually(holds: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
    deadline = time.monotonic() + limit_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


@pytest.fixture(params=["linux", "portable"], autouse=True)
def _guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs with the guard of Linux, and with the one for other systems."""
    monkeypatch.setenv("OPENCODE_TASKS_PORTABLE_GUARD", str(int(request.param == "portable")))


@pytest.fixture
def own(
    opencode_binary: Path, provider: ScriptedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Owned]]:
    """Start an owner that ends in the given way, in a new data directory."""
    for name in ("data", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    # A login of the user's, as an API key: it reaches opencode by the environment alone.
    store = tmp_path / "data" / "opencode" / "auth.json"
    store.parent.mkdir()
    store.write_text(json.dumps({"fake": {"type": "api", "key": "sk-of-the-store"}}))
    script, pid_file = tmp_path / "stubborn.py", tmp_path / "mcp.pid"
    script.write_text(STUBBORN)
    provider.on("hangs", Reply(hang=True))
    config: dict[str, Any] = provider.opencode_config()
    config["mcp"] = {
        "stubborn": {
            "type": "local",
            "command": [sys.executable, str(script), str(pid_file)],
            "enabled": True,
        }
    }
    started: list[subprocess.Popen[str]] = []

    def start(ending: str) -> Owned:
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(opencode_binary), json.dumps(config), ending],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(owner)
        assert owner.stdout is not None
        told = json.loads(owner.stdout.readline())
        return Owned(
            owner=owner,
            server=told["pid"],
            home=Path(told["home"]),
            mcp=lambda: int(pid_file.read_text()) if pid_file.exists() else None,
        )

    yield start
    for owner in started:
        owner.kill()
        owner.communicate()


def left(data: Path) -> list[Path]:
    """Files below our own data folder."""
    return [path for path in (data / "opencode-tasks").rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "code"),
    [
        pytest.param("normal", 0, marks=pytest.mark.nightly),
        pytest.param("exception", 1, marks=pytest.mark.nightly),
        ("exit", 3),
    ],
)
def test_an_owner_that_ends_leaves_nothing(
    own: Callable[[str], Owned], tmp_path: Path, ending: str, code: int
) -> None:
    owned = own(ending)
    assert owned.mcp() is not None
    assert owned.owner.wait(30) == code
    assert eventually(lambda: not owned.pids()), owned.pids()
    assert eventually(lambda: not owned.home.exists())
    assert left(tmp_path / "data") == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
def test_a_killed_owner_leaves_the_data_of_what_was_in_flight(
    own: Callable[[str], Owned], provider: ScriptedProvider, tmp_path: Path
) -> None:
    owned = own("killed")
    assert eventually(lambda: "hangs" in provider.prompts(), START_LIMIT_S)
    assert len(owned.pids()) == 3
    os.kill(owned.owner.pid, signal.SIGKILL)
    owned.owner.wait(10)
    assert eventually(lambda: not owned.pids()), owned.pids()
    assert eventually(lambda: not (owned.home / "run").exists())
    assert owned.home.stat().st_mode & 0o777 == 0o700
    assert len(list((owned.home / "unrecorded").iterdir())) == 1
    kept = {path.name for path in (owned.home / "data").rglob("*") if path.is_file()}
    assert any(name.startswith("opencode.db") for name in kept), kept
    assert "auth.json" not in kept
    assert not any(b"sk-of-the-store" in path.read_bytes() for path in left(tmp_path / "data"))
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.nightly
def test_an_unrecorded_session_keeps_its_data(own: Callable[[str], Owned]) -> None:
    owned = own("unrecorded")
    assert owned.owner.wait(30) == 0
    assert eventually(lambda: not owned.pids()), owned.pids()
    assert eventually(lambda: not (owned.home / "run").exists())
    assert len(list((owned.home / "unrecorded").iterdir())) == 1
    assert (owned.home / "data" / "opencode").is_dir()


def test_a_program_that_ignores_the_polite_end_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    code += "print('up', flush=True); time.sleep(600)"
    process = GuardedProcess.start(
        [sys.executable, "-c", code], env=dict(os.environ), cwd=tmp_path, stdout=tmp_path / "out", grace_s=0.5
    )
    assert eventually(lambda: (tmp_path / "out").read_text() == "up\n")
    started = time.monotonic()
    assert process.stop() == -signal.SIGKILL
    assert time.monotonic() - started < LIMIT_S
    assert not is_running(process.pid)


# The process ends while one of its threads makes directories, or fills one that is watched.
ENDS_DURING_START = """
import os, sys, tempfile, threading, time
from pathlib import Path
from opencode_tasks.system import GuardedProcess, end_programs, undisturbed

parent, is_busy = Path(sys.argv[1]), threading.Event()

def begin():
    with undisturbed():
        folder = Path(tempfile.mkdtemp(dir=parent))
        is_busy.set()
        time.sleep(0.5)
        GuardedProcess.watch(remove=[folder], kill_users_of=folder)

def fill():
    folder = Path(tempfile.mkdtemp(dir=parent))
    GuardedProcess.watch(remove=[folder], kill_users_of=folder)
    is_busy.set()
    while True:
        folder.mkdir(exist_ok=True)
        time.sleep(0.001)

threading.Thread(target={"begin": begin, "fill": fill}[sys.argv[2]], daemon=True).start()
is_busy.wait()
end_programs(8.0)
time.sleep(0.5)
os._exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("work", ["begin", "fill"])
def test_a_process_that_ends_during_its_start_leaves_no_directory(tmp_path: Path, work: str) -> None:
    ended = subprocess.run([sys.executable, "-c", ENDS_DURING_START, tmp_path, work], timeout=60, check=False)
    assert ended.returncode == 130
    assert eventually(lambda: not list(tmp_path.iterdir()))
    time.sleep(0.5)
    assert list(tmp_path.iterdir()) == []
