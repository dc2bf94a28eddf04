"""The command ``opencode-tasks view``: its address, its end, its errors and its exports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from forked_commands import loaded_command
from view_runs import HOSTILE, hostile_run, labelled_run

from opencode_tasks.ledger import Ledger
from opencode_tasks.view.static_export import MARK

COMMAND = Path(sys.executable).with_name("opencode-tasks")
LIMIT_S = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a ledger of two runs; ``labelled`` is the newer one."""
    with Ledger.open(str(tmp_path / "ledger.db")) as ledger:
        hostile_run(ledger, "0-hostile")
        labelled_run(ledger)
    return tmp_path


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [str(COMMAND), "view", "--ledger", "ledger.db", *arguments]
    return loaded_command.start(command, folder, os.environ)


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    with start(folder, *arguments) as process:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_newest_run_is_served_until_ctrl_c(folder: Path, number: signal.Signals) -> None:
    with start(folder, "--no-open", "--by", "maria") as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        with httpx.Client(trust_env=False, follow_redirects=True) as client:
            assert "<h1>Run labelled</h1>" in client.get(address).text
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, stdout) == (0, "")
    assert stderr == "run labelled; reviews are written as maria; Ctrl-C ends\n"


def test_a_fault_is_one_line(folder: Path) -> None:
    code, stdout, stderr = run(folder, "none", "--no-open")
    assert (code, stdout) == (2, "")
    assert stderr == (
        "opencode-tasks: RUN_ID: there is no run none in this ledger (see: opencode-tasks runs)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, stdout, stderr = run(folder, "--no-open", "--port", port)
    assert (code, stdout) == (2, "")
    assert stderr == (
        f"opencode-tasks: --port: {port} cannot be used (Address already in use); give another one, or leave "
        "it out\n"
    )
    with Ledger.open(str(folder / "empty.db")):
        pass
    code, _, stderr = run(folder, "--ledger", "empty.db")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "there is no run in this ledger yet" in stderr


def test_an_export_replaces_an_earlier_one_and_nothing_else(folder: Path) -> None:
    code, stdout, stderr = run(folder, "0-hostile", "--export", "out")
    assert (code, stdout, stderr) == (0, "11 rows -> out/index.html\n", "")
    index = (folder / "out" / "index.html").read_text(encoding="utf-8")
    assert HOSTILE[:20] not in index
    scripts = [path.read_text(encoding="utf-8") for path in (folder / "out" / "data").iterdir()]
    assert [text for text in scripts if "<" in text] == []
    (folder / "out" / "data" / "stories-99.js").write_text("")
    (folder / "out" / "data" / "mine.txt").write_text("kept")
    assert run(folder, "labelled", "--export", "out")[:2] == (0, "6 rows -> out/index.html\n")
    names = {path.name for path in (folder / "out" / "data").iterdir()}
    assert names == {"rows-0.js", "stories-0.js", "mine.txt"}
    (folder / "out" / "index.html").write_text(f"{MARK}<p>This export is not complete.")
    assert run(folder, "labelled", "--export", "out")[0] == 0
    assert "Run labelled" in (folder / "out" / "index.html").read_text(encoding="utf-8")
    (folder / "full").mkdir()
    (folder / "full" / "index.html").write_text("mine")
    code, stdout, stderr = run(folder, "labelled", "--export", "full")
    assert (code, stdout) == (2, "")
    assert stderr == "opencode-tasks: --export: full has other files; name a new folder or an empty one\n"
    assert (folder / "full" / "index.html").read_text() == "mine"
    assert run(folder, "labelled", "--export", "ledger.db")[0] == 2
