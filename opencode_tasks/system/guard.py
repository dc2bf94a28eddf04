"""A process between us and a program we start, so that the program never outlives us.

Run as a script, by its path, with the standard library alone. It reads one JSON line from
standard input, leaves its parent's process tree (a framework that kills its workers' children
must not kill the one that cleans up), starts the program in a session of its own, and then waits
for the first of: the program's end, the end of its parent process, the closing of standard input
or a line on it. Then it ends the program's whole tree, processes that left its group included,
and removes the folders it was told to remove. It reports ``started PID`` and ``exited CODE`` on
standard output.

A thread's end would fire a parent-death signal while its process lives on, so the parent is
watched by a pidfd; the program itself gets the signal for the case that this process is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_LIMIT_S = 5.0

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Read the order, leave the parent's tree, run the program and clean up after it."""
    order = json.loads(read_line(0))
    parent = os.pidfd_open(order["parent"])
    if os.fork():
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    code = keep_watch(order, parent) if order["args"] is None else run_program(order, parent)
    clean_up(order)
    report(f"exited {code}")


def keep_watch(order: dict[str, Any], parent: int) -> int:
    """Without a program: wait for the parent's end or word alone."""
    report("started 0")
    wait_for_an_end([0, parent])
    if order["end_users_of"]:
        end_users_of(order["end_users_of"], order["parent"])
    return 0


def end_users_of(folder: str, parent: int) -> None:
    """Kill the processes that use a folder, until there is none; this one and its parent excepted.

    Titles can be rewritten, so the files that a process holds open count as much as its command line.
    """
    spared = {os.getpid(), parent}
    deadline = time.monotonic() + KILL_LIMIT_S
    while (found := [pid for pid in users_of(folder) if pid not in spared]) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def users_of(folder: str) -> list[int]:
    """The processes that name a folder on their command line or hold a file in it open."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if names(folder, name) or holds(folder, name):
                    found.append(int(name))
    return found


def names(folder: str, pid: str) -> bool:
    """Whether a process's command line has the folder in it."""
    with open(f"/proc/{pid}/cmdline", "rb") as line:
        return folder.encode() in line.read()


def holds(folder: str, pid: str) -> bool:
    """Whether a process has its working folder or an open file below the folder."""
    links = [f"/proc/{pid}/cwd", *(f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd"))]
    for link in links:
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith(folder + "/"):
                return True
    return False


def run_program(order: dict[str, Any], parent: int) -> int:
    """Start the program and see it, or its parent, to the end; its exit code."""
    program = start(order)
    if program is None:
        return -1
    report(f"started {program.pid}")
    wait_for_an_end([0, parent, os.pidfd_open(program.pid)])
    return end_tree(program, order["grace_s"])


def clean_up(order: dict[str, Any]) -> None:
    """Remove the folders that go always, and of each home what need not stay."""
    for path in order["remove"]:
        shutil.rmtree(path, ignore_errors=True)
    for path in order["homes"]:
        clean_home(path)


def clean_home(path: str) -> None:
    """Remove a home, or all below a folder of homes; unrecorded sessions keep their data folder."""
    marks = os.path.join(path, "unrecorded")
    if os.path.isdir(marks):
        kept = os.listdir(marks)
        shutil.rmtree(os.path.join(path, "run") if kept else path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            clean_home(os.path.join(path, name))
        os.rmdir(path)


def read_line(fd: int) -> bytes:
    """The bytes up to the first newline, read one by one so that nothing after it is taken."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            break
        line += byte
    return line


def report(line: str) -> None:
    """Tell the parent, if it is still there to listen."""
    with contextlib.suppress(OSError):
        os.write(1, line.encode() + b"\n")


def start(order: dict[str, Any]) -> subprocess.Popen[bytes] | None:
    """The started program; None, with the reason reported, where it cannot be started."""
    try:
        stdin = open(order["stdin"], "rb") if order["stdin"] else subprocess.DEVNULL
        stdout = open(os.open(order["stdout"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb")
        stderr = subprocess.STDOUT
        if order["stderr"]:
            stderr = open(os.open(order["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb")
        return subprocess.Popen(
            order["args"],
            cwd=order["cwd"],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=die_with_guard,
        )
    except OSError as error:
        report(f"failed {error}")
        return None


def die_with_guard() -> None:
    """In the program, before it runs: default signals, and its end when this guard is killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def wait_for_an_end(fds: list[int]) -> None:
    """Return when a process behind one of the descriptors ended, or standard input says so."""
    watched = select.poll()
    for fd in fds:
        watched.register(fd, select.POLLIN | select.POLLHUP)
    watched.poll()


def end_tree(program: subprocess.Popen[bytes], grace_s: float) -> int:
    """End the program politely, then its whole tree by force; its exit code."""
    ended = program.poll()
    if ended is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            ended = program.wait(grace_s)
    deadline = time.monotonic() + KILL_LIMIT_S
    while (children := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        reap(program)
        time.sleep(0.02)
    code = program.poll()
    return -signal.SIGKILL if code is None else code


def reap(program: subprocess.Popen[bytes]) -> None:
    """Collect ended processes that were left to us, but leave the program's code to its object."""
    program.poll()
    with contextlib.suppress(ChildProcessError):
        while True:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if info is None or info.si_pid == program.pid:
                return
            os.waitpid(info.si_pid, os.WNOHANG)


def descendants(root: int) -> list[int]:
    """The living descendants of a process, from /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            with open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
            if fields[0] != b"Z":
                children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    queue = [root]
    while queue:
        for pid in children.get(queue.pop(), []):
            found.append(pid)
            queue.append(pid)
    return found


if __name__ == "__main__":
    sys.exit(main())
