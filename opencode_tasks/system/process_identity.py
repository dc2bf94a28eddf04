"""Owner name of a lease: it identifies the machine, the process and the start of the process."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from opencode_tasks.system.clock import boot_id

# Fields of /proc/<pid>/stat after the name of the program (proc_pid_stat(5)).
STATE = 0
START_TICKS = 19
ENDED_STATES = ("Z", "X", "x")


@cache
def machine_id() -> str:
    """Name of this boot of this machine and this process namespace, in which a pid is unique."""
    return f"{boot_id()}.{Path('/proc/self/ns/pid').stat().st_ino}"


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
    """The start of a process in clock ticks since the boot; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name of the program may have spaces and brackets.
    after_name = fields.rpartition(")")[2].split()
    return None if after_name[STATE] in ENDED_STATES else after_name[START_TICKS]
