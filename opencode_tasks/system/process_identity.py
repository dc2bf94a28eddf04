"""Owner name of a lease: it identifies the machine, the process and the start of the process."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

import psutil

from opencode_tasks.system.clock import boot_id

STATS = Path("/proc/self/stat")
# Fields of /proc/<pid>/stat after the name of the program (proc_pid_stat(5)).
STATE = 0
START_TICKS = 19
ENDED_STATES = ("Z", "X", "x")
# By a signal, or by a debugger.
STOPPED_STATES = ("T", "t")

OwnerState = Literal["elsewhere", "dead", "stopped", "running", "at_work", "over"]

# Owners of leases whose batches are at work in this process.
_at_work: Final[set[str]] = set()


class _Process(NamedTuple):
    """Start of a process in clock ticks since the boot, and whether it is stopped."""

    start: str
    is_stopped: bool


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


@contextmanager
def at_work(owner: str) -> Generator[None]:
    """Be the owner of leases in this process, for other batches of it."""
    _at_work.add(owner)
    try:
        yield
    finally:
        _at_work.discard(owner)


def owner_state(owner: str) -> OwnerState:
    """What is known here about the process of a lease owner.

    - ``elsewhere``: a process of another machine, of which nothing is known;
    - ``dead``: it has ended;
    - ``stopped``: it continues at SIGCONT, and the prompts that it sent may still be in flight;
    - ``running``: another process, whose batch may be over;
    - ``at_work``, ``over``: this process, and whether the batch is at work.
    """
    machine, _, rest = owner.partition("/")
    if machine != machine_id():
        return "elsewhere"
    pid, start, _ = rest.split("/")
    if int(pid) == os.getpid():
        return "at_work" if owner in _at_work else "over"
    found = _process(int(pid))
    # Earlier versions wrote a time with a point in place of the ticks.
    if found is None or ("." not in start and found.start != start):
        return "dead"
    return "stopped" if found.is_stopped else "running"


def is_dead(owner: str) -> bool:
    """Whether the process of a lease owner is known to have ended."""
    return owner_state(owner) == "dead"


def pid_of(owner: str) -> int:
    """Process id of a lease owner."""
    return int(owner.split("/")[1])


def _start_ticks(pid: int) -> str | None:
    found = _process(pid)
    return None if found is None else found.start


def _process(pid: int) -> _Process | None:
    """A process; None if it has ended.

    Where there is no /proc, its start is in microseconds since 1970, as the system noted it at the start.
    """
    if not STATS.exists():
        try:
            process = psutil.Process(pid)
            status, start = process.status(), f"{process.create_time() * 1e6:.0f}"
        except psutil.NoSuchProcess:
            return None
        return None if status == psutil.STATUS_ZOMBIE else _Process(start, status == psutil.STATUS_STOPPED)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name of the program may have spaces and brackets.
    after_name = fields.rpartition(")")[2].split()
    state = after_name[STATE]
    return None if state in ENDED_STATES else _Process(after_name[START_TICKS], state in STOPPED_STATES)
