"""Short commands, run to their end within a limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a command ended; ``returncode`` is -1 where it timed out or could not be started."""

    returncode: int
    stdout: str
    stderr: str
    timed_out: bool = False


def run_once(
    args: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float,
    stdout: Path | None = None,
) -> Finished:
    """Run ``args`` with standard input closed and its output read, or in the file ``stdout``.

    A command that takes longer than ``timeout_s`` is killed with its process group.
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
            return Finished(returncode=-1, stdout="", stderr=str(error))
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return Finished(returncode=-1, stdout=_text(output), stderr=_text(errors), timed_out=True)
        return Finished(returncode=process.returncode, stdout=_text(output), stderr=_text(errors))


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")
