"""The processes of this test session, told from others' by their private HOME."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
from forked_commands import loaded_command

# Root has all rights, and loses them in bubblewrap.
WITHOUT_RIGHTS = (
    *("bwrap", "--unshare-user", "--uid", "1000", "--cap-drop", "ALL"),
    *("--bind", "/", "/", "--proc", "/proc", "--dev", "/dev"),
)


def ours() -> Iterator[tuple[psutil.Process, list[str]]]:
    """Each other process that lives in the session's HOME and is no zombie, with its command line.

    Those that only start commands are left out.
    """
    home = os.environ["HOME"]
    for process in psutil.process_iter():
        try:
            if (
                process.pid == os.getpid()
                or loaded_command.starts(process)
                or process.environ().get("HOME") != home
            ):
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process, process.cmdline()
        except psutil.Error:
            continue


def kill_family(process: subprocess.Popen[Any]) -> None:
    """SIGKILL it and all that it started, as a lost machine ends, unless it has ended."""
    if process.poll() is not None:
        return
    parent = psutil.Process(process.pid)
    for one in (*parent.children(recursive=True), parent):
        # The death of one can end others.
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait(timeout=20)
