"""What a machine needs to run rows with workspaces."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from opencode_tasks.domain.sandbox import SandboxKind
from opencode_tasks.sandbox.cell import sandbox_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFaults:
    """What a machine lacks: paths, and ``problem``, why it cannot run rows; None if it can."""

    missing_paths: tuple[str, ...]
    problem: str | None


def machine_faults(paths: Sequence[str], sandbox: SandboxKind | None, *, uses_git: bool) -> MachineFaults:
    """What this machine lacks of some paths, of a kind of sandbox (None for none), and of git."""
    problem = None if sandbox is None else sandbox_problem(sandbox)
    if problem is None and uses_git and shutil.which("git") is None:
        problem = f"git is not installed on {socket.gethostname()}"
    missing = tuple(path for path in paths if not os.path.lexists(path))
    return MachineFaults(missing_paths=missing, problem=problem)
