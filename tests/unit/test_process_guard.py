"""The parts of the guard that other systems than Linux use, tried on Linux."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from processes import WITHOUT_RIGHTS

from opencode_tasks.system.folders import remove_tree
from opencode_tasks.system.process_guard import Portable, counted_folder
from opencode_tasks.system.processes import GuardedProcess, Limits, is_portable

LIMIT_S = 20.0
# A program with a child in a session of its own, which stays when the program ends.
PROGRAM = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen(
    [sys.executable, "-c", "import time; print(1); time.sleep(60)", sys.argv[1]], start_new_session=True
)
path = Path(sys.argv[1])
path.with_suffix(".new").write_text(str(child.pid))
path.with_suffix(".new").rename(path)
time.sleep(60)
"""


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LIMIT_S
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("0", False), (None, False)])
def test_linux_uses_its_own_calls_unless_asked(
    monkeypatch: pytest.MonkeyPatch, value: str | None, expected: bool
) -> None:
    if value is None:
        monkeypatch.delenv("OPENCODE_TASKS_PORTABLE_GUARD", raising=False)
    else:
        monkeypatch.setenv("OPENCODE_TASKS_PORTABLE_GUARD", value)
    assert is_portable() is expected


def test_a_process_that_left_the_tree_of_its_program_stays_known(tmp_path: Path) -> None:
    system, pid_file = Portable(), tmp_path / "pid"
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(pid_file)], start_new_session=True)
    child = 0
    try:
        assert eventually(pid_file.exists)
        child = int(pid_file.read_text())
        has_ended = system.watch(program.pid)
        assert not has_ended()
        assert set(system.descendants(program.pid)) == {program.pid, child}
        assert {program.pid, child} <= set(system.users_of(str(tmp_path)))
        program.kill()
        # Without ``wait``, it is a zombie.
        assert eventually(has_ended)
        assert system.descendants(program.pid) == [child]
    finally:
        program.kill()
        program.wait()
        if child:
            os.kill(child, signal.SIGKILL)
    assert eventually(lambda: system.descendants(program.pid) == [])


def guarded(folder: Path, command: Sequence[str]) -> tuple[int | None, str | None]:
    """The exit code of a command with limits, and the name of the limit that it exceeded."""
    limits = Limits(
        processes=10,
        memory_bytes=10**9,
        file_bytes=10**6,
        files=20,
        size_bytes=2 * 10**6,
        folder=folder,
    )
    output = folder.with_name("output.txt")
    program = GuardedProcess.start(command, env=dict(os.environ), cwd=folder, stdout=output, limits=limits)
    try:
        code = program.wait(LIMIT_S)
    finally:
        program.stop()
    return code, program.exceeded


@pytest.mark.parametrize(("added", "exceeded"), [(0, None), (40, "files")])
def test_files_that_were_there_before_do_not_count_against_a_limit(
    tmp_path: Path, added: int, exceeded: str | None
) -> None:
    for number in range(50):
        (tmp_path / f"old{number}").touch()
    command = f"for i in $(seq {added}); do : > new$i; done; sleep 5"
    code, found = guarded(tmp_path, ["sh", "-c", command])
    assert (found, code == 0) == (exceeded, exceeded is None)


REMOVED = "os.unlink(file.name)"
# The path of the folder is longer than the system accepts.
DEEP = "for _ in range(20):\n    os.mkdir('d' * 250)\n    os.chdir('d' * 250)"


@pytest.mark.parametrize(
    ("before", "after", "exceeded"),
    [
        pytest.param("", REMOVED, "size_bytes", id="removed while open"),
        pytest.param(DEEP, "", "files", id="below deep folders"),
    ],
)
def test_files_that_are_hidden_count_against_a_limit(
    tmp_path: Path, before: str, after: str, exceeded: str
) -> None:
    (tmp_path / "work").mkdir()
    program = f"""
import os, time
{before}
files = [open(str(number), "wb") for number in range(19)]
for file in files:
    file.write(b"x" * 150_000)
    file.flush()
    {after}
time.sleep(8)
"""
    code, found = guarded(tmp_path / "work", [sys.executable, "-c", program])
    # pytest may not remove deep folders.
    remove_tree(tmp_path / "work")
    assert (found, code == 0) == (exceeded, False)


def test_files_that_vanish_do_not_end_the_count_of_their_folder(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"stays{number}").touch()
    code = """
import os
while True:
    for number in range(99):
        open(str(number), "w").close()
    for number in range(99):
        os.unlink(str(number))
"""
    counts = list[tuple[int, int, bool]]()
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as program:
        try:
            assert eventually((tmp_path / "0").exists)
            counts = [counted_folder(str(tmp_path)) for _ in range(100)]
        finally:
            program.kill()
    assert all(files >= 200 and is_complete for files, _, is_complete in counts)


COUNTED = """
import os, sys
from opencode_tasks.system.process_guard import FolderSize
os.chdir(sys.argv[1])
size = FolderSize(".")
os.makedirs("a/b")
open("a/b/big", "wb").write(b"x" * 9_000_000)
os.chmod("a/b", 0o300)
os.chmod("a", 0)
size._next = 0
print(size.measured(), size.is_hidden)
"""


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_folder_without_rights_is_counted(tmp_path: Path) -> None:
    count = subprocess.run(
        [*WITHOUT_RIGHTS, sys.executable, "-c", COUNTED, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    files, size_bytes = count.stdout.split(")")[0].strip("(").split(",")
    assert (int(files), int(size_bytes) >= 9_000_000) == (3, True)
    assert count.stdout.endswith("False\n")
