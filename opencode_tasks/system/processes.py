"""Starting other programs: one that runs beside this process and ends with it, or a short command."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from opencode_tasks.errors import SetupError
from opencode_tasks.system.fork import free_after_fork
from opencode_tasks.system.process_guard import ENDING

GUARD = Path(__file__).with_name("process_guard.py")
START_LIMIT_S = 20.0

# Held while a directory exists that no guard knows yet.
_starting = free_after_fork(threading.Lock())
# The guards that run, by object id. ``end_programs`` reads it beside other threads.
_guards: dict[int, subprocess.Popen[bytes]] = {}
# The programs of a process are not those of its forked children.
os.register_at_fork(after_in_child=_guards.clear)


def is_portable() -> bool:
    """Whether guards do without what only Linux has, as OPENCODE_TASKS_PORTABLE_GUARD=1 requests."""
    return sys.platform != "linux" or os.environ.get("OPENCODE_TASKS_PORTABLE_GUARD") == "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a program and its children, together unless noted.

    - ``processes``: number of processes. ``memory_bytes``: memory that no file backs.
    - ``file_bytes``: size of each file that is written.
    - ``files``, ``size_bytes``: number of files that are added below ``folder``, and their bytes; a
      ``folder`` of None is not counted.
    """

    processes: int
    memory_bytes: int
    file_bytes: int
    files: int
    size_bytes: int
    folder: Path | None = None


class GuardedProcess:
    """Program that runs under a guard and ends with this process, even if this process is killed.

    ``system/process_guard.py`` is the guard. Methods are safe to call from several threads. ``pid`` is the
    process id of the program, 0 for a guard without a program. ``exceeded`` is the name of the limit because
    of which it was ended; None without one.
    """

    def __init__(self, guard: subprocess.Popen[bytes], pid: int) -> None:
        self.pid = pid
        self.exceeded: str | None = None
        self._guard = guard
        self._reports = b""
        self._ended = False
        self._code: int | None = None
        self._lock = threading.Lock()

    @classmethod
    def start(
        cls,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdout: Path,
        stderr: Path | None = None,
        stdin: Path | None = None,
        remove: Sequence[Path] = (),
        instance_dirs: Sequence[Path] = (),
        grace_s: float = 3.0,
        limits: Limits | None = None,
    ) -> Self:
        """Start ``args``. Output is appended to the file ``stdout``, errors to ``stderr`` or the same file.

        ``stdin`` is a file to read from; None closes standard input. When the program or this process
        ends, the directories ``remove`` are removed and ``instance_dirs`` are cleaned as
        ``process_guard.clean_instance_dir`` does. The program has ``grace_s`` seconds to end after
        SIGTERM, then it is killed. It is killed at once if it exceeds one of ``limits``. Raises SetupError if
        the program cannot be started.
        """
        job = {
            "args": list(args),
            "cwd": str(cwd),
            "stdin": str(stdin) if stdin else None,
            "stdout": str(stdout),
            "stderr": str(stderr) if stderr else None,
            "remove": [str(path) for path in remove],
            "instance_dirs": [str(path) for path in instance_dirs],
            "grace_s": grace_s,
            "parent": os.getpid(),
            "portable": is_portable(),
            "limits": None if limits is None else {**asdict(limits), "folder": _text(limits.folder)},
        }
        return cls._start_guard(job, env=env, cwd=cwd)

    @classmethod
    def watch(
        cls,
        *,
        remove: Sequence[Path] = (),
        instance_dirs: Sequence[Path] = (),
        kill_users_of: Path | None = None,
    ) -> Self:
        """Start a guard without a program: it cleans up when this process ends or calls ``stop``.

        The guard first kills the other processes that use the directory ``kill_users_of``.
        """
        job = {
            "args": None,
            "limits": None,
            "remove": [str(path) for path in remove],
            "instance_dirs": [str(path) for path in instance_dirs],
            "kill_users_of": str(kill_users_of) if kill_users_of else None,
            "parent": os.getpid(),
            "portable": is_portable(),
        }
        return cls._start_guard(job, env={}, cwd=Path("/"))

    @classmethod
    def _start_guard(cls, job: Mapping[str, object], *, env: Mapping[str, str], cwd: Path) -> Self:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD)],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _guards[id(guard)] = guard
        assert guard.stdin is not None
        guard.stdin.write(json.dumps(job).encode() + b"\n")
        guard.stdin.flush()
        process = cls(guard, -1)
        line = process._next_report(START_LIMIT_S)
        guard.wait(START_LIMIT_S)
        kind, _, detail = line.partition(" ")
        if kind != "started":
            process.stop()
            reason = detail or "the guard process did not answer"
            raise SetupError("unknown", raw_message=f"cannot start a program: {reason}")
        process.pid = int(detail)
        return process

    def poll(self) -> int | None:
        """Exit code of the program (negative: the signal that ended it); None while it runs."""
        with self._lock:
            if not self._ended:
                self._read_exit(self._next_report(0.0))
            return self._code

    def wait(self, timeout_s: float) -> int | None:
        """Wait up to ``timeout_s`` seconds for the end; the exit code, None if the program still runs."""
        deadline = time.monotonic() + timeout_s
        while (code := self.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return code

    def stop(self, timeout_s: float = 12.0) -> int | None:
        """End the program and its children and wait until its directories are removed.

        The exit code; None if the program did not end within ``timeout_s`` seconds.
        """
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._guard.stdin.write(b"stop\n")
            self._guard.stdin.flush()
        code = self.wait(timeout_s)
        with contextlib.suppress(OSError):
            self._guard.stdin.close()
        if code is not None and self._guard.stdout is not None:
            self._guard.stdout.close()
            _guards.pop(id(self._guard), None)
        return code

    def _read_exit(self, line: str) -> None:
        kind, _, value = line.partition(" ")
        if kind == "exceeded":
            self.exceeded = value
        if kind == "exited":
            self._ended, self._code = True, int(value)

    def _next_report(self, timeout_s: float) -> str:
        """Next line of the guard, "" if none arrives in time. A closed pipe counts as an exit."""
        assert self._guard.stdout is not None
        fd = self._guard.stdout.fileno()
        # Not select(), which fails for a descriptor above 1,023.
        watched = select.poll()
        watched.register(fd, select.POLLIN | select.POLLHUP)
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._reports:
            if not watched.poll(1000 * max(0.0, deadline - time.monotonic())):
                return ""
            data = os.read(fd, 4096)
            if not data:
                return "exited -9"
            self._reports += data
        line, _, self._reports = self._reports.partition(b"\n")
        return line.decode(errors="replace")


@contextlib.contextmanager
def undisturbed() -> Generator[None]:
    """Make a directory and start its guard in this context: ``end_programs`` waits for it."""
    with _starting:
        yield


def end_programs(timeout_s: float) -> None:
    """End all programs that run under guards, and wait for that.

    For a process that ends next: the objects of these programs cannot be used afterwards, and other threads
    wait at ``undisturbed``. The directories of programs are removed at once, those of this process when it
    has ended. A guard that needs longer than ``timeout_s`` seconds ends its program after this process.
    """
    _starting.acquire(timeout=timeout_s)
    ends = select.poll()
    waiting: set[int] = set()
    for guard in list(_guards.values()):
        # Another thread may close the pipes of a guard.
        with contextlib.suppress(OSError, ValueError):
            assert guard.stdin is not None
            assert guard.stdout is not None
            # A guard writes a line and closes its standard output when it has ended its programs.
            ends.register(guard.stdout.fileno(), select.POLLIN)
            waiting.add(guard.stdout.fileno())
            os.write(guard.stdin.fileno(), ENDING)
    deadline = time.monotonic() + timeout_s
    while waiting and (remaining_s := deadline - time.monotonic()) > 0:
        for fd, _ in ends.poll(1000 * remaining_s):
            waiting.discard(fd)
            ends.unregister(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """Result of a command. ``returncode`` is -1 if the command timed out or could not be started."""

    returncode: int
    stdout: str
    stderr: str
    timed_out: bool = False


def run_command(
    args: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float,
    stdout: Path | None = None,
) -> CommandResult:
    """Run ``args`` until it ends, with standard input closed.

    The output is in the result, or in the file ``stdout``. A command that takes longer than
    ``timeout_s`` seconds is killed with its process group. ``env`` None passes this process's environment.
    """
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(stdout.open("wb")) if stdout else subprocess.PIPE
        try:
            process = subprocess.Popen(
                list(args),
                env=dict(env) if env is not None else None,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            return CommandResult(returncode=-1, stdout="", stderr=str(error))
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return CommandResult(
                returncode=-1, stdout=_decode(output), stderr=_decode(errors), timed_out=True
            )
        return CommandResult(returncode=process.returncode, stdout=_decode(output), stderr=_decode(errors))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _decode(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")
