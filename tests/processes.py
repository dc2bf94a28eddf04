"""The processes of this test session, told from others' by their private HOME."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil


def ours() -> Iterator[tuple[psutil.Process, list[str]]]:
    """Each other process that lives in the session's HOME and is no zombie, with its command line."""
    home = os.environ["HOME"]
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.environ().get("HOME") != home:
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process, process.cmdline()
        except psutil.Error:
            continue
