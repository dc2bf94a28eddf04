"""Cell: the place of one program in a sandbox, or outside of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opencode_tasks.domain.sandbox import SandboxKind, SandboxSpec
from opencode_tasks.sandbox.bubblewrap import Bubblewrap
from opencode_tasks.sandbox.view import Sandbox, View
from opencode_tasks.system import Limits

# A container or a virtual machine would be a row here.
SANDBOXES: Mapping[SandboxKind, Sandbox] = {"bwrap": Bubblewrap()}
# Variables that are no secret and that programs need.
PLAIN_VARIABLES = frozenset(
    ("PATH", "LANG", "LANGUAGE", "TZ", "TERM", "COLORTERM", "NO_COLOR", "USER", "LOGNAME")
)
PROXY_VARIABLES = frozenset(
    name
    for lower in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    for name in (lower, lower.upper())
)
LIMIT_WORDS = {
    "processes": ("processes", "OPENCODE_TASKS_SANDBOX_PROCESSES"),
    "memory_bytes": ("bytes of memory", "OPENCODE_TASKS_SANDBOX_MEMORY_BYTES"),
    "file_bytes": ("bytes in a file", "OPENCODE_TASKS_SANDBOX_FILE_BYTES"),
    "files": ("new files", "OPENCODE_TASKS_MAX_WORKSPACE_FILES"),
    "size_bytes": ("bytes of new files", "OPENCODE_TASKS_MAX_WORKSPACE_BYTES"),
}
HIDDEN = "it made folders that cannot be read, so that their files cannot be counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Where a program runs. Without ``spec`` it is outside of a sandbox."""

    view: View
    spec: SandboxSpec | None = None

    def command(self, args: Sequence[str]) -> list[str]:
        """The command that runs ``args`` there."""
        if self.spec is None:
            return list(args)
        return SANDBOXES[self.spec.kind].command(list(args), self.view)

    def limits(self, folder: Path | None) -> Limits | None:
        """Limits of the program, whose files are in ``folder``; None outside of a sandbox."""
        if self.spec is None:
            return None
        return Limits(
            processes=self.spec.processes,
            memory_bytes=self.spec.memory_bytes,
            file_bytes=self.spec.file_bytes,
            files=self.spec.files,
            size_bytes=self.spec.size_bytes,
            folder=folder,
        )

    def exceeded_message(self, name: str) -> str:
        """The action of a program that exceeded the limit of this name."""
        assert self.spec is not None
        if name == "hidden":
            return HIDDEN
        what, setting = LIMIT_WORDS[name]
        return f"it used more than {getattr(self.spec, name):,} {what} ({setting})"


def sandbox_problem(kind: SandboxKind) -> str | None:
    """Why this machine cannot make sandboxes of a kind; None if it can."""
    return SANDBOXES[kind].problem()


def passed_variables(spec: SandboxSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of the environment that any program in a sandbox gets."""
    names = {*PLAIN_VARIABLES, *spec.variables, *(PROXY_VARIABLES if spec.network == "all" else ())}
    return {name: value for name, value in environ.items() if name in names or name.startswith("LC_")}
