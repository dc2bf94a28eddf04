"""Programs of a row: opencode and the commands of a user, started in one place."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opencode_tasks.system import GuardedProcess

# Prefixes of variables that no program of a row needs.
REMOVED_VARIABLES = ("OPENCODE_", "PREFECT_", "GIT_")
OUTPUT_CHARS = 4000
_MAX_CHAR_BYTES = 4


def start_program(
    args: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stdout: Path,
    stderr: Path | None = None,
    stdin: Path | None = None,
) -> GuardedProcess:
    """Start a program that works for one row. It ends, with its children, when this process ends.

    Parameters and errors are those of ``GuardedProcess.start``. Every program that an agent or the content of
    a workspace can influence is started here.
    """
    return GuardedProcess.start(args, env=env, cwd=cwd, stdout=stdout, stderr=stderr, stdin=stdin)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEnd:
    """The end of a command: its exit code, None if it ran out of time, and the end of its output."""

    exit_code: int | None
    output: str
    seconds: float

    @property
    def has_passed(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0

    @property
    def reason(self) -> str:
        """How it ended, in words."""
        if self.exit_code is None:
            return f"it did not end within {self.seconds:.0f} s"
        return f"exit code {self.exit_code}"


def run_shell(command: str, *, tree: Path, folder: Path, limit_s: float) -> CommandEnd:
    """Run a shell command in a workspace until it ends, and its children with it.

    ``folder`` is a private directory for its output and temporary files. ``limit_s`` is in seconds.
    """
    # Of the directories of a killed process, only those of the work are left.
    (folder / "tmp").mkdir(parents=True, exist_ok=True, mode=0o700)
    output = folder / "command.txt"
    output.unlink(missing_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(REMOVED_VARIABLES)}
    started = time.monotonic()
    process = start_program(
        ["sh", "-c", command], env=env | {"TMPDIR": str(folder / "tmp")}, cwd=tree, stdout=output
    )
    try:
        code = process.wait(limit_s)
    finally:
        process.stop()
    return CommandEnd(exit_code=code, output=_end_of(output), seconds=time.monotonic() - started)


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _MAX_CHAR_BYTES * OUTPUT_CHARS))
        return file.read().decode("utf-8", "replace")[-OUTPUT_CHARS:]
