"""Programs of a row: opencode and the commands of a user, started in one place."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from opencode_tasks.domain.sandbox import SandboxSpec
from opencode_tasks.sandbox.cell import Cell, passed_variables
from opencode_tasks.sandbox.view import TEMP, View
from opencode_tasks.system import GuardedProcess
from opencode_tasks.system.folders import remove_tree
from opencode_tasks.system.signals import signal_name

# Prefixes of variables that no program of a row needs.
REMOVED_VARIABLES = ("OPENCODE_", "PREFECT_", "GIT_")
OUTPUT_CHARS = 4000
_MAX_CHAR_BYTES = 4
# Time between two looks at a stop.
_LOOK_S = 0.5
# The kernel ends a program that writes more to a file than its limit (SIGXFSZ).
_SIGNALLED = 128
_FILE_TOO_LARGE = (-25, _SIGNALLED + 25)


def start_program(
    args: Sequence[str],
    *,
    cell: Cell,
    env: Mapping[str, str],
    stdout: Path,
    stderr: Path | None = None,
    stdin: Path | None = None,
    folder: Path | None = None,
) -> GuardedProcess:
    """Start a program that works for one row. It ends, with its children, when this process ends.

    ``cell`` says where it runs, ``folder`` is the one with its files, which is limited in a sandbox. Other
    parameters and errors are those of ``GuardedProcess.start``. Every program that an agent or the content of
    a workspace can influence is started here.
    """
    return GuardedProcess.start(
        cell.command(args),
        env=env,
        cwd=cell.view.cwd,
        stdout=stdout,
        stderr=stderr,
        stdin=stdin,
        limits=cell.limits(folder),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEnd:
    """The end of a command: its exit code, None if it ran out of time, and the end of its output.

    ``exceeded`` says which limit of the sandbox it exceeded; None for none.
    """

    exit_code: int | None
    output: str
    seconds: float
    exceeded: str | None = None

    @property
    def has_passed(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0 and self.exceeded is None

    @property
    def reason(self) -> str:
        """How it ended, in words."""
        return self.abnormal_end or f"exit code {self.exit_code}"

    @property
    def abnormal_end(self) -> str | None:
        """Why it did not end by itself; None if it did."""
        if self.exceeded is not None:
            return self.exceeded
        if self.exit_code is None:
            return f"it did not end within {self.seconds:.0f} s"
        # A shell and bubblewrap give 128 and the number for a program that a signal ended.
        number = -self.exit_code if self.exit_code < 0 else self.exit_code - _SIGNALLED
        name = signal_name(number)
        return None if name is None else f"exit code {self.exit_code}: a signal ended it ({name})"


def run_shell(
    command: str,
    *,
    tree: Path,
    folder: Path,
    limit_s: float,
    sandbox: SandboxSpec | None,
    stop: Event | None = None,
) -> CommandEnd:
    """Run a shell command in a workspace until it ends, and its children with it.

    ``folder`` is a private directory for its output and temporary files. ``limit_s`` is in seconds. In a
    ``sandbox`` the command reaches no provider. ``stop`` ends it as the limit does.
    """
    # Of the directories of a killed process, only those of the work are left.
    (folder / "tmp").mkdir(parents=True, exist_ok=True, mode=0o700)
    # Not the home of opencode, which reads programs from there.
    home = folder / "command-home"
    remove_tree(home)
    home.mkdir(mode=0o700)
    output = folder / "command.txt"
    output.unlink(missing_ok=True)
    if sandbox is None:
        cell = Cell(view=View(temp=folder / "tmp", cwd=tree))
        env = {name: value for name, value in os.environ.items() if not name.startswith(REMOVED_VARIABLES)}
        env["TMPDIR"] = str(folder / "tmp")
    else:
        cell = _cell(sandbox, tree, folder, home)
        env = passed_variables(sandbox, os.environ) | {"HOME": str(home), "TMPDIR": TEMP}
    started = time.monotonic()
    process = start_program(["sh", "-c", command], cell=cell, env=env, stdout=output, folder=tree.parent)
    try:
        code = _wait(process, limit_s, stop)
    finally:
        process.stop()
    limit = process.exceeded
    if limit is None and sandbox is not None and code in _FILE_TOO_LARGE:
        limit = "file_bytes"
    exceeded = None if limit is None else cell.exceeded_message(limit)
    seconds = time.monotonic() - started
    return CommandEnd(exit_code=code, output=_end_of(output), seconds=seconds, exceeded=exceeded)


def _wait(process: GuardedProcess, limit_s: float, stop: Event | None) -> int | None:
    """The exit code of a program; None if it has not ended within its limit, or at a stop."""
    deadline = time.monotonic() + limit_s
    while True:
        left_s = deadline - time.monotonic()
        code = process.wait(max(0.0, min(left_s, _LOOK_S)))
        if code is not None or left_s <= _LOOK_S or (stop is not None and stop.is_set()):
            return code


def _cell(sandbox: SandboxSpec, tree: Path, folder: Path, home: Path) -> Cell:
    view = View(
        temp=folder / "tmp",
        cwd=tree,
        writable=(tree, home),
        readable=tuple(map(Path, sandbox.readable)),
        has_network=sandbox.network == "all",
    )
    return Cell(view=view, spec=sandbox)


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _MAX_CHAR_BYTES * OUTPUT_CHARS))
        return file.read().decode("utf-8", "replace")[-OUTPUT_CHARS:]
