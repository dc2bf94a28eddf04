"""Run a program and measure CPU time, memory and wall time of its whole process tree.

    python benchmarks/process_tree.py REPORT.json LIMIT_S COMMAND [ARGUMENT]…

Orphans of the program become children of this process (Linux's child subreaper), so that all processes that
it starts are measured, even short ones and those in another process group. The tree is killed after
``LIMIT_S`` seconds, when standard input is closed (the parent has ended), or ``GRACE_S`` seconds after the
program ended. Only the standard library is used, because this process runs beside what it measures.

Keys of the report:

- ``started``, ``ended``: seconds since 1970; the end is that of the program, not of its tree.
- ``code``: exit code; None if the program was killed.
- ``cpu``: pairs of a time and the CPU seconds that the tree had used at that time.
- ``kinds``: pairs of a time and CPU seconds by kind of process. A process that lived between two samples is
  missing here, but not in ``cpu``.
- ``peak_pss``, ``peak_rss``: highest sum over all processes in bytes. PSS counts a shared page once.
- ``others_cpu_s``: CPU seconds of all other processes of the machine, the provider included. If it is high,
  the program was slowed down.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SAMPLE_INTERVAL_S = 0.25
# The kernel needs some milliseconds to read the PSS of a server, which must not affect the figures.
MEMORY_INTERVAL_S = 2.0
GRACE_S = 20.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36
KINDS = (
    # A part of the command line and the kind of the process; the first match counts.
    ("process_guard.py", "guards"),
    ("opencode serve", "opencode"),
    ("opencode run", "opencode"),
    ("opencode export", "opencode"),
    ("prefect server", "Prefect's server"),
    ("ray::Dashboard", "Ray itself"),
    ("ray::RuntimeEnv", "Ray itself"),
    ("ray::", "Ray's workers"),
    ("default_worker.py", "Ray's workers"),
    ("raylet", "Ray itself"),
    ("gcs_server", "Ray itself"),
    ("/ray/", "Ray itself"),
)


class ProcessTree:
    """The processes below this one, and the resources that they have used so far."""

    def __init__(self) -> None:
        self.cpu: list[tuple[float, float]] = []
        self.kinds: list[tuple[float, dict[str, float]]] = []
        self.peak = {"Pss": 0, "Rss": 0}
        self._known: dict[int, tuple[str, float]] = {}
        self._last_s = 0.0
        self._lost_s = 0.0
        self._memory_at = 0.0

    def sample(self) -> None:
        """Record the CPU time of all processes, and their memory at longer intervals."""
        used_s, pids = self._sum()
        if used_s < self._last_s:
            # A process that ended during the first reading is missing there, but not in a second one.
            used_s, pids = max((used_s, pids), self._sum(), key=lambda sums: sums[0])
        # The time of a process is lost if its parent ignores SIGCHLD, as Ray does.
        self._lost_s += max(0.0, self._last_s - used_s)
        self._last_s = used_s
        self.cpu.append((time.time(), used_s + self._lost_s))
        self.kinds.append((time.time(), self._by_kind()))
        if time.monotonic() > self._memory_at + MEMORY_INTERVAL_S:
            self._memory_at = time.monotonic()
            sums = {"Pss": 0, "Rss": 0}
            for pid in pids:
                for name, size in _memory(pid):
                    sums[name] += size
            self.peak = {name: max(size, sums[name]) for name, size in self.peak.items()}

    def _sum(self) -> tuple[float, list[int]]:
        """Return the CPU seconds of the processes and of their reaped children, and the process ids."""
        used_s, pids = _reaped_s(), []
        for pid, (own_s, children_s) in _descendants():
            used_s += own_s + children_s
            pids.append(pid)
            kind = self._known[pid][0] if pid in self._known and own_s > 0.5 else _kind(pid)
            self._known[pid] = (kind, own_s)
        return used_s, pids

    def _by_kind(self) -> dict[str, float]:
        kinds: dict[str, float] = defaultdict(float)
        for kind, own_s in self._known.values():
            kinds[kind] += own_s
        return {kind: round(own_s, 2) for kind, own_s in kinds.items()}


def _busy_s() -> float:
    """Return the CPU seconds that all processes of the machine have used since it started."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) * TICK_S


def _reaped_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _descendants() -> Iterator[tuple[int, tuple[float, float]]]:
    """Yield each process below this one with its CPU seconds and those of its reaped children."""
    parents: dict[int, int] = {}
    used: dict[int, tuple[float, float]] = {}
    for path in Path("/proc").iterdir():
        if not path.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            # The name in parentheses can contain any character, spaces too.
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            pid = int(path.name)
            parents[pid] = int(fields[1])
            times = [int(field) * TICK_S for field in fields[11:15]]
            used[pid] = (times[0] + times[1], times[2] + times[3])
    children: dict[int, list[int]] = defaultdict(list)
    for pid, parent in parents.items():
        children[parent].append(pid)
    remaining = children[os.getpid()]
    while remaining:
        pid = remaining.pop()
        remaining.extend(children[pid])
        yield pid, used[pid]


def _kind(pid: int) -> str:
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return next((kind for part, kind in KINDS if part in command), "the program")
    return "the program"


def _memory(pid: int) -> Iterator[tuple[str, int]]:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("Pss", "Rss"):
                yield name, int(rest.split()[0]) * 1024


def reap(main_pid: int) -> tuple[bool, int | None]:
    """Reap ended processes; return whether none is left, and the exit code of the program if it ended now."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True, code
        if not pid:
            return False, code
        if pid == main_pid:
            code = os.waitstatus_to_exitcode(status)


def measure(command: list[str], limit_s: float) -> dict[str, Any]:
    """Run a command until all of its processes have ended and return the report."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    tree = ProcessTree()
    started, busy_s = time.time(), _busy_s()
    main_pid = subprocess.Popen(command, stdin=subprocess.DEVNULL).pid
    ended: float | None = None
    code: int | None = None
    deadline = started + limit_s
    while True:
        tree.sample()
        is_empty, exit_code = reap(main_pid)
        if exit_code is not None:
            code, ended = exit_code, time.time()
            deadline = min(deadline, ended + GRACE_S)
        if is_empty:
            break
        is_orphan = bool(select.select([0], [], [], SAMPLE_INTERVAL_S)[0]) and not os.read(0, 1)
        if is_orphan or time.time() > deadline:
            for pid, _ in _descendants():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    tree.sample()
    others_s = _busy_s() - busy_s - tree.cpu[-1][1]
    return {
        "started": started,
        "others_cpu_s": round(max(0.0, others_s), 1),
        "ended": ended or time.time(),
        "code": code if ended is not None and code is not None and code >= 0 else None,
        "cpu": [(round(at, 3), round(used_s, 2)) for at, used_s in tree.cpu],
        "kinds": [(round(at, 3), kinds) for at, kinds in tree.kinds],
        "peak_pss": tree.peak["Pss"],
        "peak_rss": tree.peak["Rss"],
    }


if __name__ == "__main__":
    report_path, limit_s, *command = sys.argv[1:]
    Path(report_path).write_text(json.dumps(measure(command, float(limit_s))))
