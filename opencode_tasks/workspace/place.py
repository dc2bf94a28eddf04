"""Workspace: the private copy of a row's files, beside the directories of its opencode process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from opencode_tasks.domain.sandbox import SandboxSpec
from opencode_tasks.domain.work import WorkspaceRequest, WorkspaceSource
from opencode_tasks.system.folders import remove_tree
from opencode_tasks.workspace import archive, folder, repository
from opencode_tasks.workspace.changes import ChangeLog
from opencode_tasks.workspace.fault import WorkspaceFaultError
from opencode_tasks.workspace.program import CommandEnd, run_shell


@dataclass(frozen=True, slots=True)
class Workspace:
    """The workspace of an attempt, below the root of its instance directory."""

    root: Path

    @property
    def tree(self) -> Path:
        """The private copy, in which the agent works."""
        return self.root / "workspace"

    @property
    def changes(self) -> ChangeLog:
        """The changes of the copy."""
        return ChangeLog(self.tree, self.root / "changes")

    @property
    def is_ready(self) -> bool:
        """Whether the copy is complete, so that its changes can be read."""
        return self.changes.has_base

    @property
    def run(self) -> Path:
        """The private directory of the instance directory for temporary files."""
        return self.root / "run"

    def make(self, request: WorkspaceRequest, stop: Event | None = None) -> None:
        """Copy the source, run the setup command, and record the state.

        Raises WorkspaceFaultError if the source is not there, is too large or has changed since it was
        resolved, and if the command fails, or is stopped by ``stop``.
        """
        source = request.source
        remove_tree(self.tree)
        remove_tree(self.root / "changes")
        try:
            _copy(source, self.tree)
        except OSError as error:
            raise WorkspaceFaultError(f"cannot copy {source.address}: {error}") from error
        self.changes.add_source()
        if request.setup_command is not None:
            end = self.shell(request.setup_command, request.command_limit_s, request.sandbox, stop)
            if not end.has_passed:
                output = end.output.strip() or "no output"
                raise WorkspaceFaultError(f"the setup command failed ({end.reason}): {output}")
        self.changes.set_base()

    def shell(
        self, command: str, limit_s: float, sandbox: SandboxSpec | None, stop: Event | None = None
    ) -> CommandEnd:
        """Run a shell command in the copy. ``stop`` ends it."""
        return run_shell(
            command, tree=self.tree, folder=self.run, limit_s=limit_s, sandbox=sandbox, stop=stop
        )

    def check(
        self, command: str, limit_s: float, sandbox: SandboxSpec | None, stop: Event | None = None
    ) -> CommandEnd:
        """Run a shell command in the copy, and undo what it changes in files that are not ignored."""
        with self.changes.undone():
            return self.shell(command, limit_s, sandbox, stop)

    def files(self, globs: Iterable[str]) -> list[Path]:
        """The files of the copy that match a pattern, relative to it, in order; no link that leads out."""
        found = {path for pattern in globs for path in self.tree.glob(pattern) if path.is_file()}
        top = self.tree.resolve()
        return sorted(
            path.relative_to(self.tree)
            for path in found
            if path.resolve().is_relative_to(top) and path.relative_to(self.tree).parts[0] != ".git"
        )


def _copy(source: WorkspaceSource, tree: Path) -> None:
    if "://" not in source.address and not Path(source.address).exists():
        raise WorkspaceFaultError(
            f"{source.address} is not on this machine; workers on other machines need a URL, as of a "
            "repository or an archive"
        )
    match source.kind:
        case "git":
            repository.check_out(source.address, source.commit, tree)
            return
        case "archive":
            with archive.local_archive(source.address) as path:
                found = archive.digest_of(path)
                archive.extract(path, tree)
        case "folder":
            folder.copy_folder(Path(source.address), tree)
            found = folder.digest_of(tree)
    if f"sha256:{found}" != source.identity:
        raise WorkspaceFaultError(f"{source.address} has changed since the run began; run annotate again")
