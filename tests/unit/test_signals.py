"""Signals to a command that works in a thread, and a stop that a run is asked for."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from opencode_tasks.system import Stop

LIMIT_S = 30.0
BEGIN = """
import os, signal, sys, threading, time
from opencode_tasks.system import Stop, run_in_thread

stop = Stop()

def on_stop():
    say("stopping")
    stop.request()

def say(line):
    print(line, flush=True)

def receive(name):
    os.kill(os.getpid(), getattr(signal, name))

def command(work):
    return run_in_thread(work, on_stop=on_stop, on_kill=lambda: say("killed"))
"""
# Each module of a program swallows what a signal raises, and the import lock is held for a while.
IMPORTS = """
def work():
    threading.Timer(0.2, receive, (sys.argv[1],)).start()
    import slow
    say(slow.END)
    stop.sleep(20)

try:
    command(work)
except KeyboardInterrupt:
    say("ended")
"""
SWALLOWS = "import time\ntry:\n    time.sleep(1)\nexcept BaseException:\n    pass\nEND = 'loaded'\n"
TWICE = """
def work():
    receive("SIGINT")
    receive("SIGTERM")
    while not stop_was_requested():
        time.sleep(0.01)
    time.sleep(float(sys.argv[1]))
    receive("SIGINT")
    time.sleep(1)
    return "ended"

def stop_was_requested():
    try:
        stop.check()
    except KeyboardInterrupt:
        return True

say(command(work))
"""
AT_THE_END = """
command(lambda: None)
receive("SIGINT")
time.sleep(0.6)
receive("SIGTERM")
time.sleep(20)
"""


def run(folder: Path, program: str, *arguments: str) -> tuple[int, list[str]]:
    """Exit code and lines of a program."""
    ran = subprocess.run(
        [sys.executable, "-c", BEGIN + program, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ran.stderr == ""
    return ran.returncode, ran.stdout.splitlines()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_breaks_off_no_import(tmp_path: Path, name: str) -> None:
    (tmp_path / "slow.py").write_text(SWALLOWS)
    assert run(tmp_path, IMPORTS, name) == (0, ["stopping", "loaded", "ended"])


def test_a_signal_that_arrives_twice_at_once_is_one(tmp_path: Path) -> None:
    assert run(tmp_path, TWICE, "0") == (0, ["stopping", "ended"])


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    assert run(tmp_path, TWICE, "0.6") == (130, ["stopping", "killed"])


def test_a_second_signal_ends_a_process_whose_work_has_ended(tmp_path: Path) -> None:
    assert run(tmp_path, AT_THE_END) == (130, ["killed"])


def test_a_hangup_after_a_stop_is_no_second_one(tmp_path: Path) -> None:
    # The terminal, the shell and the end of the shell each send one.
    assert run(tmp_path, TWICE.replace("SIGINT", "SIGHUP"), "0.6") == (0, ["stopping", "ended"])


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_an_ignored_signal_stays_ignored(tmp_path: Path, name: str) -> None:
    ignored = (
        f"signal.signal(signal.{name}, signal.SIG_IGN)\ncommand(lambda: receive('{name}'))\nsay('ended')\n"
    )
    assert run(tmp_path, ignored) == (0, ["ended"])


def test_an_error_of_the_work_is_raised(tmp_path: Path) -> None:
    raises = "try:\n    command(lambda: 1 / 0)\nexcept ZeroDivisionError:\n    say('raised')\n"
    assert run(tmp_path, raises) == (0, ["raised"])


def test_a_sleep_ends_when_a_stop_is_requested() -> None:
    stop = Stop()
    threading.Thread(target=stop.request, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        stop.sleep(LIMIT_S)


def test_items_end_when_a_stop_is_requested() -> None:
    stop = Stop()
    items = stop.checked([1, 2, 3])
    assert next(items) == 1
    stop.request()
    with pytest.raises(KeyboardInterrupt):
        next(items)


def test_an_action_is_called_once_for_a_request_before_or_in_its_context_and_not_after() -> None:
    stop = Stop()
    calls: list[str] = []
    with stop.calling(lambda: calls.append("left")):
        pass
    with stop.calling(lambda: calls.append("in")):
        stop.request()
    with stop.calling(lambda: calls.append("before")):
        pass
    assert calls == ["in", "before"]
