"""Owner name of a lease: it identifies the machine, the process and the start time of the process."""

from __future__ import annotations

import contextlib
import os
from functools import cache
from pathlib import Path

import psutil


@cache
def machine_id() -> str:
    """Name of this boot of this machine and this process namespace, in which a pid is unique."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"


def lease_owner(batch_id: str) -> str:
    """Owner name of the leases of a batch in this process: ``machine/pid/start time/batch_id``."""
    process = psutil.Process()
    return f"{machine_id()}/{process.pid}/{process.create_time():.2f}/{batch_id}"


def is_dead(owner: str) -> bool:
    """Whether the process of a lease owner is known to have ended.

    False for a process of another machine, of which nothing is known here.
    """
    machine, pid, created, _ = owner.split("/")
    if machine != machine_id() or int(pid) == os.getpid():
        return False
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(int(pid))
        return process.status() == psutil.STATUS_ZOMBIE or f"{process.create_time():.2f}" != created
    return True
