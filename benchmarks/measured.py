"""Run a program and tell what its whole tree of processes used: CPU time, memory, wall time.

    python benchmarks/measured.py REPORT.json LIMIT_S COMMAND [ARGUMENT]…

Every orphan of the program becomes a child of this process (Linux's child subreaper), so that
nothing it started is missed, not even what leaves its group or lives for a moment. The tree is
killed after ``LIMIT_S`` seconds, once standard input ends (whoever started us is gone), or where it
outlives the program by ``GRACE_S``. The standard library alone, since this process runs beside
what it measures.

The report: ``started`` and ``ended`` (epoch seconds; the end is that of the program itself),
``code`` (None where it was killed), ``cpu`` (pairs of epoch seconds and the CPU seconds used up to
then), ``kinds`` (the same by kind of process, as last seen: what lived between two looks is missing
there, and there alone), ``peak_pss`` and ``peak_rss`` in bytes, summed over the
processes at one moment: PSS counts a shared page once. ``others_cpu_s`` is what all other processes
of the machine used meanwhile, the provider among them: where it is much, the figures are too low.
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

LOOK_EVERY_S = 0.25
# Reading a server's PSS takes the kernel some milliseconds: it must not become part of the figures.
MEMORY_EVERY_S = 2.0
GRACE_S = 20.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36
KINDS = (
    # A word of the command line, and what the process is then called; the first that fits.
    ("guard.py", "guards"),
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


class Tree:
    """The processes below this one, and what they have used so far."""

    def __init__(self) -> None:
        self.cpu: list[tuple[float, float]] = []
        self.kinds: list[tuple[float, dict[str, float]]] = []
        self.peak = {"Pss": 0, "Rss": 0}
        self._seen: dict[int, tuple[str, float]] = {}
        self._last = 0.0
        self._lost = 0.0
        self._memory_at = 0.0

    def look(self) -> None:
        """Note the CPU time of all, and now and then their memory."""
        used, living = self._sum()
        if used < self._last:
            # What was waited for while we read stands nowhere: it does in a second reading.
            used, living = max((used, living), self._sum(), key=lambda summed: summed[0])
        # A parent that ignores its children's ends (Ray's does) has their times nowhere at all.
        self._lost += max(0.0, self._last - used)
        self._last = used
        self.cpu.append((time.time(), used + self._lost))
        self.kinds.append((time.time(), self._by_kind()))
        if time.monotonic() > self._memory_at + MEMORY_EVERY_S:
            self._memory_at = time.monotonic()
            sums = {"Pss": 0, "Rss": 0}
            for pid in living:
                for name, size in _memory(pid):
                    sums[name] += size
            self.peak = {name: max(size, sums[name]) for name, size in self.peak.items()}

    def _sum(self) -> tuple[float, list[int]]:
        """CPU seconds that the living and those they have waited for have used, and the living."""
        used, living = _reaped_s(), []
        for pid, (own, of_children) in _descendants():
            used += own + of_children
            living.append(pid)
            kind = self._seen[pid][0] if pid in self._seen and own > 0.5 else _kind(pid)
            self._seen[pid] = (kind, own)
        return used, living

    def _by_kind(self) -> dict[str, float]:
        kinds: dict[str, float] = defaultdict(float)
        for kind, own in self._seen.values():
            kinds[kind] += own
        return {kind: round(own, 2) for kind, own in kinds.items()}


def _busy_s() -> float:
    """CPU seconds that all processes of the machine have used since it started."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) * TICK_S


def _reaped_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _descendants() -> Iterator[tuple[int, tuple[float, float]]]:
    """Each process below this one: CPU seconds of its own, and of the children it has waited for."""
    parents: dict[int, int] = {}
    used: dict[int, tuple[float, float]] = {}
    for path in Path("/proc").iterdir():
        if not path.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            # The name in parentheses may hold anything, a space too.
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            pid = int(path.name)
            parents[pid] = int(fields[1])
            times = [int(field) * TICK_S for field in fields[11:15]]
            used[pid] = (times[0] + times[1], times[2] + times[3])
    children: dict[int, list[int]] = defaultdict(list)
    for pid, parent in parents.items():
        children[parent].append(pid)
    waiting = children[os.getpid()]
    while waiting:
        pid = waiting.pop()
        waiting.extend(children[pid])
        yield pid, used[pid]


def _kind(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return next((kind for word, kind in KINDS if word in words), "the program")
    return "the program"


def _memory(pid: int) -> Iterator[tuple[str, int]]:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("Pss", "Rss"):
                yield name, int(rest.split()[0]) * 1024


def reap(main: int) -> tuple[bool, int | None]:
    """Take in what has ended: whether nothing is left, and the program's exit code if it was there."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True, code
        if not pid:
            return False, code
        if pid == main:
            code = os.waitstatus_to_exitcode(status)


def measure(command: list[str], limit_s: float) -> dict[str, Any]:
    """Run a command to its end and that of all it started; the report."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    tree = Tree()
    started, busy = time.time(), _busy_s()
    main = subprocess.Popen(command, stdin=subprocess.DEVNULL).pid
    ended: float | None = None
    code: int | None = None
    deadline = started + limit_s
    while True:
        tree.look()
        is_empty, found = reap(main)
        if found is not None:
            code, ended = found, time.time()
            deadline = min(deadline, ended + GRACE_S)
        if is_empty:
            break
        is_left = bool(select.select([0], [], [], LOOK_EVERY_S)[0]) and not os.read(0, 1)
        if is_left or time.time() > deadline:
            for pid, _ in _descendants():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    tree.look()
    others = _busy_s() - busy - tree.cpu[-1][1]
    return {
        "started": started,
        "others_cpu_s": round(max(0.0, others), 1),
        "ended": ended or time.time(),
        "code": code if ended is not None and code is not None and code >= 0 else None,
        "cpu": [(round(at, 3), round(used, 2)) for at, used in tree.cpu],
        "kinds": [(round(at, 3), kinds) for at, kinds in tree.kinds],
        "peak_pss": tree.peak["Pss"],
        "peak_rss": tree.peak["Rss"],
    }


if __name__ == "__main__":
    report, limit, *rest = sys.argv[1:]
    Path(report).write_text(json.dumps(measure(rest, float(limit))))
