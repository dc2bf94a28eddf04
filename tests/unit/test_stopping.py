"""A signal to stop, while the process still imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_S = 30.0
# The main thread waits for a module that another thread loads, when the signal comes.
PROGRAM = """
import os, signal, sys, threading, time
from opencode_tasks.process import stop_as_by_ctrl_c

stop_as_by_ctrl_c()

def load():
    import slow
    import json.tool
    print("loaded", flush=True)

loader = threading.Thread(target=load)
loader.start()
while "slow" not in sys.modules:
    time.sleep(0.01)
threading.Timer(0.2, os.kill, (os.getpid(), int(sys.argv[1]))).start()
try:
    import slow
    time.sleep(20)
except KeyboardInterrupt:
    print("stopped", hasattr(sys.modules["slow"], "END"), flush=True)
loader.join(5)
"""


@pytest.mark.parametrize("number", [2, 15])
def test_an_import_is_not_broken_off_half_way(tmp_path: Path, number: int) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1)\nEND = True\n")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(number)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert sorted(ran.stdout.splitlines()) == ["loaded", "stopped True"]
    assert ran.stderr == ""
