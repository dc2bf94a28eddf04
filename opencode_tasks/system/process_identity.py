"""Owner name of a lease: it identifies the machine, the process and the start of the process."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import psutil

from opencode_tasks.system.clock import boot_id

STATS = Path("/proc/self/stat")
# Fields of /proc/<pid>/stat after the name of the program (proc_pid_stat(5)).
STATE = 0
START_TICKS = 19
ENDED_STATES = ("Z", "X", "x")


@cache
def machine_id() -> str:
    """Name of this boot of this machine and this process namespace, in which a pid is unique."""
    # Linux alone has process namespaces.
    namespace = Path("/proc/self/ns/pid")
    return f"{boot_id()}.{namespace.stat().st_ino if namespace.exists() else 0}"


def lease_owner(batch_id: str) -> str:
    """Owner name of the leases of a batch in this process: ``machine/pid/start/batch_id``.

    ``start`` is in clock ticks since the boot, which a change of the system's time does not move.
    """
    return f"{machine_id()}/{os.getpid()}/{_start_ticks(os.getpid())}/{batch_id}"


def is_dead(owner: str) -> bool:
    """Whether the process of a lease owner is known to have ended.

    False for a process of another machine, of which nothing is known here.
    """
    machine, pid, start, _ = owner.split("/")
    if machine != machine_id() or int(pid) == os.getpid():
        return False
    started = _start_ticks(int(pid))
    # Earlier versions wrote a time with a point in place of the ticks.
    return started is None or ("." not in start and started != start)


def _start_ticks(pid: int) -> str | None:
    """The start of a process in clock ticks since the boot; None if it has ended.

    Where there is no /proc, in microseconds since 1970, as the system noted it at the start.
    """
    if not STATS.exists():
        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time() * 1e6:.0f}"
        except psutil.NoSuchProcess:
            return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name of the program may have spaces and brackets.
    after_name = fields.rpartition(")")[2].split()
    return None if after_name[STATE] in ENDED_STATES else after_name[START_TICKS]
