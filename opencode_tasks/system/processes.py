"""A program that runs beside us and ends with us, whatever ends us."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from opencode_tasks.errors import SetupError

GUARD = Path(__file__).with_name("guard.py")
START_LIMIT_S = 20.0


class GuardedProcess:
    """A running program under a guard; see ``system/guard.py``. Safe to use from several threads."""

    def __init__(self, guard: subprocess.Popen[bytes], pid: int) -> None:
        self.pid = pid
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
    ) -> Self:
        """Start ``args`` with its output in the file ``stdout`` (and ``stderr``, or the same file).

        When the program or this process ends, the folders ``remove`` go; ``instance_dirs`` are cleaned as
        ``guard.clean_home`` says. A program that does not end within ``grace_s`` seconds of a
        SIGTERM is killed. Raises SetupError where the program cannot be started.
        """
        order = {
            "args": list(args),
            "cwd": str(cwd),
            "stdin": str(stdin) if stdin else None,
            "stdout": str(stdout),
            "stderr": str(stderr) if stderr else None,
            "remove": [str(path) for path in remove],
            "homes": [str(path) for path in instance_dirs],
            "grace_s": grace_s,
            "parent": os.getpid(),
        }
        return cls._order(order, env=env, cwd=cwd)

    @classmethod
    def watch(
        cls,
        *,
        remove: Sequence[Path] = (),
        instance_dirs: Sequence[Path] = (),
        end_users_of: Path | None = None,
    ) -> Self:
        """A guard without a program: it cleans up once this process ends or says stop.

        Other processes that use the folder ``end_users_of`` are killed first.
        """
        order = {
            "args": None,
            "remove": [str(path) for path in remove],
            "homes": [str(path) for path in instance_dirs],
            "end_users_of": str(end_users_of) if end_users_of else None,
            "parent": os.getpid(),
        }
        return cls._order(order, env={}, cwd=Path("/"))

    @classmethod
    def _order(cls, order: Mapping[str, object], *, env: Mapping[str, str], cwd: Path) -> Self:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD)],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert guard.stdin is not None
        guard.stdin.write(json.dumps(order).encode() + b"\n")
        guard.stdin.flush()
        process = cls(guard, -1)
        line = process._next_report(START_LIMIT_S)
        guard.wait(START_LIMIT_S)
        word, _, rest = line.partition(" ")
        if word != "started":
            process.stop()
            why = rest or "the guard gave no answer"
            raise SetupError("unknown", raw_message=f"cannot start a program: {why}")
        process.pid = int(rest)
        return process

    def poll(self) -> int | None:
        """The program's exit code (negative: the signal that ended it), None while it runs."""
        with self._lock:
            if not self._ended:
                self._take_end(self._next_report(0.0))
            return self._code

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the end, at most ``timeout_s`` seconds; the exit code, or None if it still runs."""
        deadline = time.monotonic() + timeout_s
        while (code := self.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return code

    def stop(self, timeout_s: float = 12.0) -> int | None:
        """End the program and its children, wait until its folders are removed; the exit code."""
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._guard.stdin.write(b"stop\n")
            self._guard.stdin.flush()
        code = self.wait(timeout_s)
        with contextlib.suppress(OSError):
            self._guard.stdin.close()
        if code is not None and self._guard.stdout is not None:
            self._guard.stdout.close()
        return code

    def _take_end(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "exited":
            self._ended, self._code = True, int(rest)

    def _next_report(self, timeout_s: float) -> str:
        """The next line of the guard within the time, "" without one; the pipe's end is an end."""
        assert self._guard.stdout is not None
        fd = self._guard.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._reports:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return ""
            data = os.read(fd, 4096)
            if not data:
                return "exited -9"
            self._reports += data
        line, _, self._reports = self._reports.partition(b"\n")
        return line.decode(errors="replace")
