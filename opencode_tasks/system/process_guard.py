"""Process between this one and a program, so that the program never outlives its parent.

It runs as a script, by its path, with the standard library alone. It reads one job (a JSON line) from
standard input and leaves the process tree of its parent: a framework that kills the children of its
workers must not kill the process that cleans up. It starts the program in a session and process group
that belong to the program, and waits until the program ends, the parent ends, or standard input is
closed or has a line. Then it kills the whole tree of the program, processes that left its group
included, and removes the directories named in the job. It writes ``started PID`` and ``exited CODE``
to standard output.

The parent is watched through a pidfd. A parent-death signal is not enough: it is sent when the thread
that started the child ends, even if the process is still running. The program itself gets that signal,
in case the guard is killed.
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
from typing import Any, Final

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_LIMIT_S = 5.0
# A program between its fork and its exec cannot be recognized; it uses its directory within this time.
QUIET_S = 1.0
# The line of a parent that is about to end. Any other line asks for the clean-up.
ENDING = b"ending\n"

libc: Final = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Read the job, leave the process tree of the parent, run the program and clean up."""
    job = json.loads(read_line(0))
    parent = os.pidfd_open(job["parent"])
    if os.fork():
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    code = watch_parent(job, parent) if job["args"] is None else run_program(job, parent)
    clean_up(job)
    report(f"exited {code}")


def watch_parent(job: dict[str, Any], parent: int) -> int:
    """Wait until the parent ends or asks for the clean-up, without a program to run.

    If the parent says that it is about to end, it may still write to its directories until then.
    """
    report("started 0")
    wait_for_any([0, parent])
    # After the end of the parent, a process that it forked may hold the pipe open.
    is_ending = has_data(0) and read_line(0) == ENDING
    if job["kill_users_of"]:
        kill_users_of(job["kill_users_of"], job["parent"])
    if is_ending:
        report("ending")
        wait_for_any([parent])
        if job["kill_users_of"]:
            remove_for_good(job["kill_users_of"], job["parent"])
    return 0


def remove_for_good(folder: str, parent: int) -> None:
    """Remove a directory that programs may still be about to use, until it is absent for ``QUIET_S``."""
    deadline = time.monotonic() + KILL_LIMIT_S
    absent_since = time.monotonic()
    while time.monotonic() < min(deadline, absent_since + QUIET_S):
        if os.path.exists(folder):
            kill_users_of(folder, parent)
            shutil.rmtree(folder, ignore_errors=True)
            absent_since = time.monotonic()
        time.sleep(0.05)


def kill_users_of(folder: str, parent: int) -> None:
    """Kill every process that uses a directory, except this one and its parent.

    Open files count as much as the command line, since a process can rewrite its command line.
    """
    spared = {os.getpid(), parent}
    deadline = time.monotonic() + KILL_LIMIT_S
    while (found := [pid for pid in users_of(folder) if pid not in spared]) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def users_of(folder: str) -> list[int]:
    """Processes that name a directory on their command line or have a file in it open."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if is_on_command_line(folder, name) or has_open_file_in(folder, name):
                    found.append(int(name))
    return found


def is_on_command_line(folder: str, pid: str) -> bool:
    """Whether the command line of a process contains the directory."""
    with open(f"/proc/{pid}/cmdline", "rb") as line:
        return folder.encode() in line.read()


def has_open_file_in(folder: str, pid: str) -> bool:
    """Whether the working directory or an open file of a process is below the directory."""
    links = [f"/proc/{pid}/cwd", *(f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd"))]
    for link in links:
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith(folder + "/"):
                return True
    return False


def run_program(job: dict[str, Any], parent: int) -> int:
    """Run the program until it, or its parent, ends; its exit code."""
    program = start(job)
    if program is None:
        return -1
    report(f"started {program.pid}")
    wait_for_any([0, parent, os.pidfd_open(program.pid)])
    return end_tree(program, job["grace_s"])


def clean_up(job: dict[str, Any]) -> None:
    """Remove the directories named in the job, and clean its instance directories."""
    for path in job["remove"]:
        shutil.rmtree(path, ignore_errors=True)
    for path in job["instance_dirs"]:
        clean_instance_dir(path)


def clean_instance_dir(path: str) -> None:
    """Remove an instance directory, or all instance directories below ``path``.

    While a session is unrecorded, the data directory stays and only ``run`` is removed.
    """
    marks = os.path.join(path, "unrecorded")
    if os.path.isdir(marks):
        has_unrecorded = bool(os.listdir(marks))
        shutil.rmtree(os.path.join(path, "run") if has_unrecorded else path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            clean_instance_dir(os.path.join(path, name))
        os.rmdir(path)


def has_data(fd: int) -> bool:
    """Whether a read of the descriptor returns at once."""
    watched = select.poll()
    watched.register(fd, select.POLLIN | select.POLLHUP)
    return bool(watched.poll(0))


def read_line(fd: int) -> bytes:
    """Read up to the first newline, byte by byte, so that no later byte is consumed."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            break
        line += byte
    return line


def report(line: str) -> None:
    """Write a line to the parent, if the parent still reads."""
    with contextlib.suppress(OSError):
        os.write(1, line.encode() + b"\n")


def start(job: dict[str, Any]) -> subprocess.Popen[bytes] | None:
    """Start the program; None, with the reason reported, if it cannot be started."""
    try:
        stdin = open(job["stdin"], "rb") if job["stdin"] else subprocess.DEVNULL
        stdout = open(os.open(job["stdout"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb")
        stderr = subprocess.STDOUT
        if job["stderr"]:
            stderr = open(os.open(job["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb")
        return subprocess.Popen(
            job["args"],
            cwd=job["cwd"],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=prepare_program,
        )
    except OSError as error:
        report(f"failed {error}")
        return None


def prepare_program() -> None:
    """Restore the default signals in the program, and have it killed if the guard is killed.

    This runs in the child process before the program.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def wait_for_any(fds: list[int]) -> None:
    """Wait until a process behind one of the descriptors ends, or standard input has data or is closed."""
    watched = select.poll()
    for fd in fds:
        watched.register(fd, select.POLLIN | select.POLLHUP)
    watched.poll()


def end_tree(program: subprocess.Popen[bytes], grace_s: float) -> int:
    """Send SIGTERM to the program, then kill its whole process tree; its exit code.

    The program has ``grace_s`` seconds to end after SIGTERM.
    """
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
    """Collect ended child processes, except the program: its ``Popen`` object needs the exit code."""
    program.poll()
    with contextlib.suppress(ChildProcessError):
        while True:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if info is None or info.si_pid == program.pid:
                return
            os.waitpid(info.si_pid, os.WNOHANG)


def descendants(root: int) -> list[int]:
    """Running descendants of a process, read from /proc."""
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
