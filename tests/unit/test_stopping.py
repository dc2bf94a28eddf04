"""A signal to stop, while the process still imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_S = 30.0
BEGIN = """
import os, signal, sys, threading, time
from opencode_tasks.process import stop_as_by_ctrl_c

stop_as_by_ctrl_c()

def stop_after(seconds):
    threading.Timer(seconds, os.kill, (os.getpid(), int(sys.argv[1]))).start()
"""
WAITS = """
def load():
    import slow
    import json.tool
    print("loaded", flush=True)

loader = threading.Thread(target=load)
loader.start()
while "slow" not in sys.modules:
    time.sleep(0.01)
stop_after(0.2)
try:
    import slow
    time.sleep(20)
except KeyboardInterrupt:
    print("stopped", hasattr(sys.modules["slow"], "END"), flush=True)
loader.join(5)
"""
LOADS = """
for seconds in sys.argv[2:]:
    stop_after(float(seconds))
try:
    import slow
    time.sleep(20)
except KeyboardInterrupt:
    time.sleep(1)
    print("stopped", slow.END, flush=True)
"""


def told(folder: Path, program: str, number: int, *seconds: str) -> list[str]:
    """The lines that a program prints which imports ``slow`` and gets that signal meanwhile."""
    ran = subprocess.run(
        [sys.executable, "-c", BEGIN + program, str(number), *seconds],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert ran.stderr == ""
    return sorted(ran.stdout.splitlines())


@pytest.mark.parametrize("number", [2, 15])
def test_a_wait_for_an_import_of_another_thread_is_not_broken_off(tmp_path: Path, number: int) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1)\nEND = True\n")
    assert told(tmp_path, WAITS, number) == ["loaded", "stopped True"]


@pytest.mark.parametrize("number", [2, 15])
def test_a_module_that_swallows_it_does_not_lose_the_signal(tmp_path: Path, number: int) -> None:
    swallows = "import time\ntry:\n    time.sleep(1)\nexcept BaseException:\n    pass\nEND = True\n"
    (tmp_path / "slow.py").write_text(swallows)
    assert told(tmp_path, LOADS, number, "0.2") == ["stopped True"]


def test_two_signals_while_a_module_is_loaded_are_one(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1)\nEND = True\n")
    assert told(tmp_path, LOADS, 2, "0.2", "0.4") == ["stopped True"]
