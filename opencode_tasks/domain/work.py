"""Plain values of rows that work in a workspace: where the files come from, and what the work came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

from opencode_tasks.domain.sandbox import SandboxSpec

SourceKind = Literal["folder", "archive", "git"]
KeepWorkspaces = Literal["none", "failed", "all"]
# Schemes of URLs that name a file of the machine itself.
_LOCAL = ("file", "local")


def local_path(address: str) -> str | None:
    """The path that an address names on the disk of a machine; None for one that a network reaches."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return unquote(parts.path) if parts.scheme in _LOCAL else None


def absolute_address(address: str | None) -> str | None:
    """The address of a folder with a relative path made absolute; None for None."""
    return address if address is None or "://" in address else str(Path(address).absolute())


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceSource:
    """A resolved source of files. Equal identities mean equal content.

    ``address`` is an absolute path, or a URL without a secret. ``identity`` is ``git:COMMIT`` or
    ``sha256:DIGEST``. ``given`` and ``ref`` are the texts of the row from which it was resolved; ``ref`` is
    None without one.
    """

    kind: SourceKind
    address: str
    identity: str
    given: str
    ref: str | None = None

    @property
    def commit(self) -> str:
        """The commit of a git source."""
        return self.identity.partition(":")[2]

    @property
    def local_path(self) -> str | None:
        """The path of a source on the disk of a machine; None for one that a network reaches."""
        return local_path(self.address)

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The source of a JSON object."""
        return cls(**value)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceRequest:
    """A workspace to make: its source, and a shell command that prepares it; None for none.

    ``command_limit_s`` is the time limit of the command in seconds. It runs in ``sandbox``, None for none.
    """

    source: WorkspaceSource
    setup_command: str | None = None
    command_limit_s: float = 600.0
    sandbox: SandboxSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSpec:
    """Commands of a run in the workspaces of its rows, and the parts that it keeps of them.

    - ``setup_command``, ``check_command``: shell commands before and after the agent, None for none.
      ``command_limit_s`` is their time limit in seconds. They run in ``sandbox``, None for none.
    - ``require_check``: a row whose check fails has failed. ``check_retries``: number of further prompts with
      the output of a failed check.
    - ``artifact_globs``: patterns of files that are stored. ``artifacts``: URL of the folder for files, None
      for one in the user's data folder.
    - ``max_diff_bytes``: size above which a diff is such a file.
    - ``keep``: attempts after which the workspace is kept.
    - ``host``: name of the machine of the driver. Addresses of files on another one have its name.
    """

    setup_command: str | None = None
    check_command: str | None = None
    command_limit_s: float = 600.0
    require_check: bool = False
    check_retries: int = 0
    artifact_globs: tuple[str, ...] = ()
    keep: KeepWorkspaces = "none"
    artifacts: str | None = None
    max_diff_bytes: int = 1_000_000
    sandbox: SandboxSpec | None = None
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkResult:
    """Result of the work of a row in its workspace; None for what is unknown or absent.

    Attributes:
        diff: Unified diff of the changed files, as ``git apply`` reads it; "" without a change.
        diff_url: Address of the file with the diff, if it is too long for a column or not UTF-8. One on
            the disk of another machine than that of the driver is ``file://MACHINE/PATH``.
        files_changed: Number of files that were added, changed or removed.
        lines_added: Number of added lines of text files.
        lines_removed: Number of removed lines of text files.
        tools_called: Names of the tools that the agent called, as a JSON list in the order of first calls.
        tools_denied: Names of the tools that its permissions denied, as a JSON list.
        workspace_url: Address of the kept workspace, with the name of another machine as in ``diff_url``.
        check_passed: Whether the check command ended with exit code 0.
        check_output: End of the output of the check command.
        artifacts: Stored files, as a JSON list of objects with ``path``, ``url``, ``size_bytes``, ``sha256``.

    Examples:
        >>> from opencode_tasks.domain.work import WorkResult
        >>> WorkResult(diff="", files_changed=0).files_changed
        0
    """

    diff: str | None = None
    diff_url: str | None = None
    files_changed: int | None = None
    lines_added: int | None = None
    lines_removed: int | None = None
    tools_called: str | None = None
    tools_denied: str | None = None
    workspace_url: str | None = None
    check_passed: bool | None = None
    check_output: str | None = None
    artifacts: str | None = None
