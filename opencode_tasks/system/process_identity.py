"""The name of a batch in its leases: it tells machine, process and when that was started."""

from __future__ import annotations

import contextlib
import os
from functools import cache
from pathlib import Path

import psutil


@cache
def machine() -> str:
    """A name for this boot of this machine and this process namespace: what a pid is unique in."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"


def lease_owner(batch_id: str) -> str:
    """The owner of what a batch in this process holds."""
    process = psutil.Process()
    return f"{machine()}/{process.pid}/{process.create_time():.2f}/{batch_id}"


def is_dead(owner: str) -> bool:
    """Whether a lease's owner is known to be gone: a process of this machine that no longer runs."""
    place, pid, created, _ = owner.split("/")
    if place != machine() or int(pid) == os.getpid():
        return False
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(int(pid))
        return process.status() == psutil.STATUS_ZOMBIE or f"{process.create_time():.2f}" != created
    return True
