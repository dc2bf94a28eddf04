"""Process between this one and a program, so that the program never outlives its parent.

It runs as a script, by its path, with the standard library alone. It reads one job (a JSON line) from
standard input and leaves the process tree of its parent: a framework that kills the children of its
workers must not kill the process that cleans up. It starts the program in a session and process group
that belong to the program, and waits until the program ends, the parent ends, or standard input is
closed or has a line. Then it kills the whole tree of the program, processes that left its group
included, and removes the directories named in the job. It writes ``started PID`` and ``exited CODE``
to standard output. A job can have ``limits`` of the whole tree: when it exceeds one, the guard writes
``exceeded NAME`` and kills it.

On Linux the parent is watched through a pidfd. A parent-death signal is not enough: it is sent when the
thread that started the child ends, even if the process is still running. The program itself gets that
signal, in case the guard is killed.

Elsewhere ``Portable`` watches processes with a kqueue where there is one, and finds them with ``ps``. Two
things are weaker there: a program outlives a guard that is killed, and a process that leaves the tree of the
program within ``TRACK_S`` of its start is not found.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import json
import os
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_LIMIT_S = 5.0
# A program between its fork and its exec cannot be recognized; it uses its directory within this time.
QUIET_S = 1.0
# Time between two looks at processes that are not watched through a descriptor, and at those of a program.
LOOK_S = 0.2
TRACK_S = 1.0
PS_LIMIT_S = 10.0
# Time between two measurements of a program with limits; those of its folder take at most this share of time.
MEASURE_S = 0.25
FOLDER_S = 2.0
FOLDER_SHARE = 0.05
# A path below a descriptor is shorter than the longest that the system accepts (PATH_MAX, NAME_MAX).
PATH_CHARS = 900
# The line of a parent that is about to end. Any other line asks for the clean-up.
ENDING = b"ending\n"

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


class Linux:
    """Processes by pidfd, prctl and /proc: nothing that the program starts can leave its tree."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def adopt_orphans(self) -> None:
        """Become the parent of every process of the program whose own parent ends."""
        self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def prepare_program(self) -> None:
        """Have the program killed if the guard is killed. This runs in the child before the program."""
        restore_signals()
        self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def watch(self, pid: int) -> int:
        """A descriptor that is readable when a process has ended."""
        return os.pidfd_open(pid)

    def wait(
        self, watched: Sequence[int], *, reads_stdin: bool = True, timeout_s: float | None = None
    ) -> bool:
        """Wait until a watched process ends, or standard input has data or is closed; False after a time."""
        ends = select.poll()
        for fd in (*watched, *([0] if reads_stdin else [])):
            ends.register(fd, select.POLLIN | select.POLLHUP)
        return bool(ends.poll(None if timeout_s is None else 1000 * timeout_s))

    def usage(self, program: int) -> tuple[int, int]:
        """Number of processes of the program, and their memory in bytes that no file backs."""
        found = self.descendants(program)
        return len(found), sum(own_memory(pid) for pid in found)

    def descendants(self, program: int) -> list[int]:
        """Running processes of the program: those below this process, which adopts orphans."""
        del program
        children: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with contextlib.suppress(OSError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as line:
                    fields = line.read().rpartition(b")")[2].split()
                if fields[0] != b"Z":
                    children.setdefault(int(fields[1]), []).append(int(name))
        return below([os.getpid()], children)

    def reap(self, program: subprocess.Popen[bytes]) -> None:
        """Collect ended child processes, except the program: its ``Popen`` object needs the exit code."""
        program.poll()
        with contextlib.suppress(ChildProcessError):
            while True:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if info is None or info.si_pid == program.pid:
                    return
                os.waitpid(info.si_pid, os.WNOHANG)

    def users_of(self, folder: str) -> list[int]:
        """Processes that name a directory on their command line or have a file in it open."""
        found: list[int] = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError):
                    if is_on_command_line(folder, name) or has_open_file_in(folder, name):
                        found.append(int(name))
        return found


class Portable:
    """Processes by kqueue or signal 0, process groups, ``ps`` and, if it is installed, ``lsof``."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}
        self._program = 0
        self._tracked_at = 0.0
        self._looked_at: dict[int, float] = {}
        self._ended: set[int] = set()

    def adopt_orphans(self) -> None:
        """Nothing: there is no such call. ``descendants`` remembers what it has seen."""

    def prepare_program(self) -> None:
        """Restore the signals. This runs in the child before the program."""
        restore_signals()

    def watch(self, pid: int) -> Callable[[], bool]:
        """A function that returns whether a process has ended."""
        if not hasattr(select, "kqueue"):
            return functools.partial(self._has_ended, pid)
        bsd: Any = select
        queue = bsd.kqueue()
        event = bsd.kevent(pid, bsd.KQ_FILTER_PROC, bsd.KQ_EV_ADD, bsd.KQ_NOTE_EXIT)
        try:
            queue.control([event], 0)
        except OSError:
            return lambda: True
        ended: list[bool] = []

        def has_ended() -> bool:
            # The event is delivered once.
            ended.extend(True for _ in queue.control(None, 1, 0))
            return bool(ended)

        return has_ended

    def _has_ended(self, pid: int) -> bool:
        # Signal 0 also reaches a zombie, so ``ps`` looks too, but less often.
        if time.monotonic() - self._looked_at.get(pid, 0.0) > TRACK_S:
            self._looked_at[pid] = time.monotonic()
            if not is_running(pid):
                self._ended.add(pid)
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            self._ended.add(pid)
        except PermissionError:
            pass
        return pid in self._ended

    def wait(
        self,
        watched: Sequence[Callable[[], bool]],
        *,
        reads_stdin: bool = True,
        timeout_s: float | None = None,
    ) -> bool:
        """Wait until a watched process ends, or standard input has data or is closed; False after a time."""
        began = time.monotonic()
        while not any(has_ended() for has_ended in watched):
            if reads_stdin and has_data(0, LOOK_S):
                return True
            if not reads_stdin:
                time.sleep(LOOK_S)
            if self._program and time.monotonic() - self._tracked_at > TRACK_S:
                self.descendants(self._program)
            if timeout_s is not None and time.monotonic() - began >= timeout_s:
                return False
        return True

    def usage(self, program: int) -> tuple[int, int]:
        """Number of processes of the program, and their resident memory in bytes."""
        found = {str(pid) for pid in self.descendants(program)}
        lines = output_of(["ps", "-ax", "-o", "pid=,rss="]).splitlines()
        sizes = [int(size) for pid, size in (line.split() for line in lines) if pid in found]
        return len(found), 1024 * sum(sizes)

    def descendants(self, program: int) -> list[int]:
        """Running processes of the program: its tree, its group, and what was once in either."""
        self._program = program
        table = processes()
        self._tracked_at = time.monotonic()
        children: dict[int, list[int]] = {}
        for pid, (parent, _, _) in table.items():
            children.setdefault(parent, []).append(pid)
        # A later process can have the id of one that has ended.
        roots = [pid for pid, started in self._known.items() if pid in table and table[pid][2] == started]
        roots += [pid for pid, (_, group, _) in table.items() if program in (pid, group)]
        found = {*roots, *below(roots, children)} - {os.getpid()}
        self._known = {pid: table[pid][2] for pid in found}
        return list(found)

    def reap(self, program: subprocess.Popen[bytes]) -> None:
        """Collect the program if it has ended. It is the only child process here."""
        program.poll()

    def users_of(self, folder: str) -> list[int]:
        """Processes that name a directory on their command line or have a file in it open."""
        found = {
            int(line.split(None, 1)[0])
            for line in output_of(["ps", "-axww", "-o", "pid=,command="]).splitlines()
            if folder in line
        }
        user = 0
        for line in output_of(["lsof", "-n", "-P", "-w", "-F", "pn"]).splitlines():
            if line.startswith("p"):
                user = int(line[1:])
            elif line.startswith(f"n{folder}/"):
                found.add(user)
        return [pid for pid in found if is_running(pid)]


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    return output_of(["ps", "-o", "stat=", "-p", str(pid)]).strip()[:1] not in {"", "Z"}


def processes() -> dict[int, tuple[int, int, str]]:
    """Parent, group and time of the start of each running process, by its id."""
    found: dict[int, tuple[int, int, str]] = {}
    for line in output_of(["ps", "-ax", "-o", "pid=,ppid=,pgid=,stat=,lstart="]).splitlines():
        pid, parent, group, state, started = line.split(None, 4)
        if not state.startswith("Z"):
            found[int(pid)] = int(parent), int(group), started
    return found


def output_of(args: list[str]) -> str:
    """Output of a program of the system, without its own line; "" if it is not installed."""
    program = shutil.which(args[0], path="/bin:/usr/bin:/usr/sbin")
    if program is None:
        return ""
    environment = {"LC_ALL": "C", "TZ": "UTC"}
    with subprocess.Popen(
        [program, *args[1:]],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as running:
        try:
            output = running.communicate(timeout=PS_LIMIT_S)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            running.kill()
            return ""
    own = str(running.pid)
    return "\n".join(line for line in output.splitlines() if line.split(None, 1)[:1] != [own])


def own_memory(pid: int) -> int:
    """Memory of a process in bytes that no file backs; 0 if it has ended."""
    kilobytes = 0
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status", "rb") as status:
        for line in status:
            if line.startswith((b"RssAnon:", b"RssShmem:")):
                kilobytes += int(line.split()[1])
    return 1024 * kilobytes


def below(roots: Sequence[int], children: Mapping[int, Sequence[int]]) -> list[int]:
    """All processes below some in a tree of processes."""
    found: list[int] = []
    queue = list(roots)
    while queue:
        for pid in children.get(queue.pop(), []):
            if pid not in found:
                found.append(pid)
                queue.append(pid)
    return found


def main() -> None:
    """Read the job, leave the process tree of the parent, run the program and clean up."""
    job = json.loads(read_line(0))
    system: Any = Portable() if job["portable"] else Linux()
    parent = system.watch(job["parent"])
    if os.fork():
        os._exit(0)
    if job["portable"]:
        # A kqueue is not inherited.
        parent = system.watch(job["parent"])
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    system.adopt_orphans()
    code = watch_parent(system, job, parent) if job["args"] is None else run_program(system, job, parent)
    clean_up(job)
    report(f"exited {code}")


def watch_parent(system: Any, job: dict[str, Any], parent: Any) -> int:
    """Wait until the parent ends or asks for the clean-up, without a program to run.

    If the parent says that it is about to end, it may still write to its directories until then.
    """
    report("started 0")
    system.wait([parent])
    # After the end of the parent, a process that it forked may hold the pipe open.
    is_ending = has_data(0) and read_line(0) == ENDING
    if job["kill_users_of"]:
        kill_users_of(system, job["kill_users_of"], job["parent"])
    if is_ending:
        report("ending")
        system.wait([parent], reads_stdin=False)
        if job["kill_users_of"]:
            remove_for_good(system, job["kill_users_of"], job["parent"])
    return 0


def remove_for_good(system: Any, folder: str, parent: int) -> None:
    """Remove a directory that programs may still be about to use, until it is absent for ``QUIET_S``."""
    deadline = time.monotonic() + KILL_LIMIT_S
    absent_since = time.monotonic()
    while time.monotonic() < min(deadline, absent_since + QUIET_S):
        if os.path.exists(folder):
            kill_users_of(system, folder, parent)
            shutil.rmtree(folder, ignore_errors=True)
            absent_since = time.monotonic()
        time.sleep(0.05)


def kill_users_of(system: Any, folder: str, parent: int) -> None:
    """Kill every process that uses a directory, except this one and its parent.

    Open files count as much as the command line, since a process can rewrite its command line.
    """
    spared = {os.getpid(), parent}
    deadline = time.monotonic() + KILL_LIMIT_S
    while (found := set(system.users_of(folder)) - spared) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


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


def run_program(system: Any, job: dict[str, Any], parent: Any) -> int:
    """Run the program until it, or its parent, ends; its exit code."""
    limits = job["limits"]
    # Counted first: all that the program adds is its own.
    size = FolderSize(limits and limits["folder"])
    program = start(system, job)
    if program is None:
        return -1
    report(f"started {program.pid}")
    end = (lambda: program.poll() is not None) if job["portable"] else system.watch(program.pid)
    if limits is None:
        system.wait([parent, end])
        return end_tree(system, program, job["grace_s"])
    while not system.wait([parent, end], timeout_s=MEASURE_S):
        if exceeded := exceeded_limit(system, program.pid, limits, size):
            report(f"exceeded {exceeded}")
            return end_tree(system, program, 0.0)
    return end_tree(system, program, job["grace_s"])


def exceeded_limit(system: Any, program: int, limits: Mapping[str, Any], size: FolderSize) -> str | None:
    """The name of a limit that the program exceeds; None if it keeps all of them."""
    count, memory_bytes = system.usage(program)
    if count > limits["processes"]:
        return "processes"
    if memory_bytes > limits["memory_bytes"]:
        return "memory_bytes"
    files, size_bytes = size.measured(lambda: system.descendants(program))
    if size.is_hidden:
        return "hidden"
    if files > limits["files"]:
        return "files"
    return "size_bytes" if size_bytes > limits["size_bytes"] else None


class FolderSize:
    """Growth of a folder by a program: files and folders, and their bytes, counted from time to time."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._next = 0.0
        self._unread = 0
        self._first = self._found = (0, 0)
        self._first = self.measured()
        self._found = (0, 0)

    @property
    def is_hidden(self) -> bool:
        """Whether a part of the folder could not be read in both of the last two counts.

        A program may have changed rights just during one.
        """
        return self._unread > 1

    def measured(self, pids: Callable[[], Iterable[int]] = list) -> tuple[int, int]:
        """The numbers of the last count, without those of the first one.

        The count includes the removed files that the processes have open.
        """
        if self._folder is None or time.monotonic() < self._next:
            return self._found
        began = time.monotonic()
        files, size_bytes, is_complete = counted_folder(self._folder)
        self._unread = 0 if is_complete else self._unread + 1
        removed = removed_files(pids(), self._folder)
        self._found = (
            files + len(removed) - self._first[0],
            size_bytes + sum(removed.values()) - self._first[1],
        )
        now = time.monotonic()
        self._next = now + max(FOLDER_S, (now - began) / FOLDER_SHARE)
        return self._found


def counted_folder(folder: str) -> tuple[int, int, bool]:
    """The files and folders below a folder, their bytes, and whether all could be read.

    What vanishes meanwhile is left out.
    """
    files, size_bytes, is_complete = 0, 0, True
    # Paths below a descriptor, which is closed when it has none: a path may be too long for the system.
    waiting: list[tuple[int, str | None]] = []
    with contextlib.suppress(FileNotFoundError):
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        waiting = [(top, None), (top, ".")]
    while waiting:
        base, path = waiting.pop()
        if path is None:
            os.close(base)
            continue
        try:
            opened = open_folder(base, path)
        except OSError as error:
            is_complete &= has_vanished(error)
            continue
        if len(path) > PATH_CHARS:
            base, path = opened, "."
            waiting.append((base, None))
        try:
            with os.scandir(opened) as entries:
                for entry in entries:
                    try:
                        state = entry.stat(follow_symlinks=False)
                    except OSError as error:
                        is_complete &= has_vanished(error)
                        continue
                    files += 1
                    size_bytes += size_on_disk(state)
                    if stat.S_ISDIR(state.st_mode):
                        waiting.append((base, f"{path}/{entry.name}"))
        except OSError as error:
            is_complete &= has_vanished(error)
        if base != opened:
            os.close(opened)
    return files, size_bytes, is_complete


def open_folder(base: int, path: str) -> int:
    """Open a folder below a descriptor. Its owner, who is that of this process, gets its rights back."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    if not hasattr(os, "O_PATH"):
        return os.open(path, flags, dir_fd=base)
    # A name may become a link meanwhile. This descriptor needs no rights, and stays with the folder.
    found = os.open(path, flags | os.O_PATH, dir_fd=base)
    try:
        same = f"/proc/self/fd/{found}"
        if not os.access(same, os.R_OK | os.X_OK):
            os.chmod(same, stat.S_IMODE(os.stat(found).st_mode) | stat.S_IRWXU)
        return os.open(same, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(found)


def has_vanished(error: OSError) -> bool:
    """Whether a file or folder is not there any more, or is something else now."""
    return error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


def size_on_disk(state: os.stat_result) -> int:
    """The bytes of a file, or those of its blocks if they are more."""
    return max(state.st_size, 512 * state.st_blocks)


def removed_files(pids: Iterable[int], folder: str) -> dict[int, int]:
    """The bytes of the files that processes have open and that have no name any more, by their inode.

    Those on the file system of the folder. Without ``/proc``, none is found.
    """
    found: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            device = os.stat(folder).st_dev
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    state = os.stat(f"/proc/{pid}/fd/{name}")
                    if state.st_nlink == 0 and state.st_dev == device and stat.S_ISREG(state.st_mode):
                        found[state.st_ino] = size_on_disk(state)
    return found


def clean_up(job: dict[str, Any]) -> None:
    """Remove the directories named in the job, and clean its instance directories."""
    for path in job["remove"]:
        shutil.rmtree(path, ignore_errors=True)
    for path in job["instance_dirs"]:
        clean_instance_dir(path)


def clean_instance_dir(path: str) -> None:
    """Remove an instance directory, or all instance directories below ``path`` that no process has locked.

    While a session is unrecorded or kept, the data directory stays and only ``run`` is removed.
    """
    marks = os.path.join(path, "unrecorded")
    if os.path.isdir(marks):
        has_unrecorded = bool(os.listdir(marks))
        shutil.rmtree(os.path.join(path, "run") if has_unrecorded else path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            with unlocked(os.path.join(path, name, "lock")) as is_unlocked:
                if is_unlocked:
                    clean_instance_dir(os.path.join(path, name))
        os.rmdir(path)


@contextlib.contextmanager
def unlocked(path: str) -> Generator[bool]:
    """Whether no process has locked a file, or there is none. Nobody can lock it in the block then."""
    try:
        file = open(path, "rb")
    except OSError:
        yield True
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def has_data(fd: int, timeout_s: float = 0.0) -> bool:
    """Whether a read of the descriptor returns within a time."""
    watched = select.poll()
    watched.register(fd, select.POLLIN | select.POLLHUP)
    return bool(watched.poll(1000 * timeout_s))


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


def start(system: Any, job: dict[str, Any]) -> subprocess.Popen[bytes] | None:
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
            preexec_fn=functools.partial(prepare, system, job["limits"]),
        )
    except OSError as error:
        report(f"failed {error}")
        return None


def prepare(system: Any, limits: Mapping[str, Any] | None) -> None:
    """Prepare the program, in its process, and set its limits that the kernel enforces."""
    system.prepare_program()
    if limits is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"], limits["file_bytes"]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def restore_signals() -> None:
    """Restore the default signals in a program; this process ignores them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def end_tree(system: Any, program: subprocess.Popen[bytes], grace_s: float) -> int:
    """Send SIGTERM to the program, then kill its whole process tree; its exit code.

    The program has ``grace_s`` seconds to end after SIGTERM.
    """
    # The processes of the program are known by it for as long as it runs.
    system.descendants(program.pid)
    ended = program.poll()
    if ended is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            ended = program.wait(grace_s)
    deadline = time.monotonic() + KILL_LIMIT_S
    while (children := system.descendants(program.pid)) and time.monotonic() < deadline:
        for pid in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        system.reap(program)
        time.sleep(0.02)
    code = program.poll()
    return -signal.SIGKILL if code is None else code


if __name__ == "__main__":
    sys.exit(main())
