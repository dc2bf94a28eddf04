"""The parts of the guard that other systems than Linux use, tried on Linux."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opencode_tasks.system.process_guard import Portable
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


@pytest.mark.parametrize(("added", "exceeded"), [(0, None), (40, "files")])
def test_files_that_were_there_before_do_not_count_against_a_limit(
    tmp_path: Path, added: int, exceeded: str | None
) -> None:
    for number in range(50):
        (tmp_path / f"old{number}").touch()
    command = f"for i in $(seq {added}); do : > new$i; done; sleep 5"
    limits = Limits(
        processes=10,
        memory_bytes=10**9,
        file_bytes=10**6,
        files=20,
        size_bytes=10**6,
        folder=tmp_path,
    )
    output = tmp_path.with_name("output.txt")
    program = GuardedProcess.start(
        ["sh", "-c", command], env=dict(os.environ), cwd=tmp_path, stdout=output, limits=limits
    )
    try:
        code = program.wait(LIMIT_S)
    finally:
        program.stop()
    assert (program.exceeded, code == 0) == (exceeded, exceeded is None)
