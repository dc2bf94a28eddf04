"""A signal to stop, at moments at which KeyboardInterrupt would do harm or be lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_S = 30.0
BEGIN = """
import os, signal, sys, threading, time
from opencode_tasks.system import install_stop_handlers

install_stop_handlers()

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
    loaded = hasattr(sys.modules["slow"], "END")
    loader.join(5)
    print("stopped", loaded, flush=True)
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

# To close its connection takes some time.
CLOSES = """
import sqlite3
from sqlalchemy import create_engine, text

class Slow(sqlite3.Connection):
    def close(self):
        print("closing", flush=True)
        time.sleep(float(sys.argv[3]))
        super().close()
        print("closed", flush=True)

engine = create_engine("sqlite://", connect_args={"factory": Slow})
with engine.connect() as connection:
    connection.execute(text("select 1"))
stop_after(float(sys.argv[2]))
try:
    engine.dispose()
    time.sleep(20)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
FINALIZES = """
class Slow:
    def __del__(self):
        time.sleep(1)

slow = Slow()
stop_after(0.2)
try:
    del slow
    time.sleep(20)
except KeyboardInterrupt:
    time.sleep(0.5)
    print("stopped", flush=True)
"""

# The start of the loop takes long here.
STARTS_A_LOOP = """
import asyncio
from opencode_tasks.opencode.server_pool import ServerPool

class Slow(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self):
        time.sleep(1)
        return super().new_event_loop()

asyncio.set_event_loop_policy(Slow())
stop_after(0.3)
try:
    ServerPool().call(asyncio.sleep, 20)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def told(folder: Path, program: str, number: int, *seconds: str, errors: bool = False) -> list[str]:
    """The lines, in order of their letters, that a program prints which gets that signal."""
    ran = subprocess.run(
        [sys.executable, "-c", BEGIN + program, str(number), *seconds],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert errors or ran.stderr == ""
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


@pytest.mark.parametrize("number", [2, 15])
def test_a_database_connection_is_closed_before_the_stop_and_nothing_is_logged(
    tmp_path: Path, number: int
) -> None:
    assert told(tmp_path, CLOSES, number, "0.2", "1") == ["closed", "closing", "stopped"]


def test_a_database_that_does_not_answer_keeps_nobody_from_stopping(tmp_path: Path) -> None:
    assert told(tmp_path, CLOSES, 2, "0.2", "60", errors=True) == ["closing", "stopped"]


def test_a_stop_while_the_loop_of_the_servers_starts_does_not_hang(tmp_path: Path) -> None:
    assert told(tmp_path, STARTS_A_LOOP, 2) == ["stopped"]


def test_a_stop_in_what_python_lets_no_error_out_of_is_not_lost(tmp_path: Path) -> None:
    assert told(tmp_path, FINALIZES, 2) == ["stopped"]
