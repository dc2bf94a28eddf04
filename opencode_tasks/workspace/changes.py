"""Changes of a workspace: a diff of its files before and after the work.

A private repository outside of the workspace holds the state before. The workspace's own repository, its
hooks, settings and attributes have no effect.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from opencode_tasks.workspace.folder import REPOSITORY
from opencode_tasks.workspace.git import FETCH_LIMIT_S, checked_git

# They precede the attributes in the workspace: no conversion, no filter, no driver. "ident" stays as it is
# there, since "git apply" compares a file without its id.
ATTRIBUTES = "* -text !eol -crlf -filter !working-tree-encoding !diff\n"
_BASE = "base"
_PATHS = "paths"
_TO_UNDO = "to-undo"
# The exit code of "git add" if a path that is left out is ignored too. All others are added.
_SOME_IGNORED = 1
# Names that git reserves for other systems are names of files here.
_NAMES = ("-c", "core.protectNTFS=false", "-c", "core.protectHFS=false")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The changes of a workspace. ``patch`` is a file with the diff, as ``git apply`` reads it.

    Lines are those of text files; a binary file counts as a file only.
    """

    patch: Path
    files: int
    lines_added: int
    lines_removed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A state of the files: the id of their tree, and the folders that have a repository of their own."""

    tree: str
    repositories: frozenset[str]


@dataclass(frozen=True, slots=True)
class ChangeLog:
    """The state of a folder ``tree`` before the work, in the private repository ``git_dir``."""

    tree: Path
    git_dir: Path

    def add_source(self) -> None:
        """Record all files of the source, those that its ``.gitignore`` names included."""
        self._git("init", "--quiet", "--template=")
        info = self.git_dir / "info"
        info.mkdir(exist_ok=True)
        (info / "attributes").write_text(ATTRIBUTES)
        self._add("--force")

    def set_base(self) -> None:
        """Record the state before the agent: files that are new since the source unless they are ignored."""
        (self.git_dir / _BASE).write_text(self.state().tree)

    @property
    def has_base(self) -> bool:
        """Whether the state before the agent is recorded."""
        return (self.git_dir / _BASE).exists()

    def read(self) -> Changes:
        """The changes since ``set_base``. Raises WorkspaceFaultError if git cannot read them."""
        self.undo()
        base = (self.git_dir / _BASE).read_text()
        self._add()
        compared = ("--cached", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color", base, "--")
        patch = self.git_dir / "changes.patch"
        self._git(
            "diff", "--binary", "--full-index", "--src-prefix=a/", "--dst-prefix=b/", *compared, stdout=patch
        )
        counts = [
            line.split("\t", 2)
            for line in self._git("diff", "--numstat", "-z", *compared).split("\0")
            if line
        ]
        return Changes(
            patch=patch,
            files=len(counts),
            lines_added=sum(int(added) for added, _, _ in counts if added != "-"),
            lines_removed=sum(int(removed) for _, removed, _ in counts if removed != "-"),
        )

    def state(self) -> State:
        """The present state of the files."""
        repositories = self._add()
        return State(tree=self._git("write-tree").strip(), repositories=repositories)

    @contextlib.contextmanager
    def undone(self) -> Generator[None]:
        """Undo at the end what changes in the block. If the process dies in it, ``undo`` does that later."""
        self.undo()
        state = self.state()
        note = {"tree": state.tree, "repositories": sorted(state.repositories)}
        (self.git_dir / _TO_UNDO).write_text(json.dumps(note))
        try:
            yield
        finally:
            self.undo()

    def undo(self) -> None:
        """Undo what changed in a block of ``undone`` that did not end."""
        file = self.git_dir / _TO_UNDO
        if file.exists():
            note = json.loads(file.read_text())
            self.restore(State(tree=note["tree"], repositories=frozenset(note["repositories"])))
            file.unlink()

    def restore(self, state: State) -> None:
        """Give the files the content of a state. Files that are ignored and not in the source stay.

        A repository that is new since then, which would hide the files of its folder, is removed.
        """
        new = self._add() - state.repositories
        self._git("read-tree", "-u", "--reset", state.tree)
        if new:
            listed = self._git("ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z")
            ignored = {Path(name) for name in listed.split("\0") if name}
            for folder in map(Path, new):
                if ignored.isdisjoint((folder, *folder.parents)):
                    _remove(self.tree / folder / REPOSITORY)
            self._add()
            self._git("read-tree", "-u", "--reset", state.tree)

    def _add(self, *options: str) -> frozenset[str]:
        """Add the files to the index; the folders that have a repository of their own are the result."""
        repositories, refused = self._left_out()
        others = (f":(exclude,literal,top){name}" for name in (*repositories, *refused))
        listed = self.git_dir / _PATHS
        listed.write_bytes(b"".join(os.fsencode(name) + b"\0" for name in (":/", *others)))
        paths = (f"--pathspec-from-file={listed}", "--pathspec-file-nul")
        self._git("add", "--all", *options, *paths, accepted=(0, _SOME_IGNORED))
        return frozenset(repositories)

    def _left_out(self) -> tuple[list[str], list[str]]:
        """The paths in the workspace that git does not add.

        They are folders that have a repository of their own, and entries with a name that git never accepts.
        Pipes, sockets and devices are removed: they have no content, and git waits for one that it opens.
        The owner gets the rights that git needs to read and restore the others.
        """
        repositories: list[str] = []
        refused: list[str] = []
        _grant(self.tree, stat.S_IRWXU)
        folders = [self.tree]
        while folders:
            folder = folders.pop()
            for entry in _entries(folder):
                if folder == self.tree and entry.name == REPOSITORY:
                    continue
                if entry.name == REPOSITORY:
                    repositories.append(str(folder.relative_to(self.tree)))
                elif _is_refused(entry):
                    refused.append(str(Path(entry.path).relative_to(self.tree)))
                if entry.is_symlink():
                    continue
                if entry.is_dir(follow_symlinks=False):
                    _grant(entry, stat.S_IRWXU)
                    folders.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    _grant(entry, stat.S_IRUSR)
                else:
                    Path(entry.path).unlink()
        return repositories, refused

    def _git(self, *args: str, stdout: Path | None = None, accepted: Sequence[int] = (0,)) -> str:
        return checked_git(
            (*_NAMES, *args),
            "cannot read the changes of the workspace",
            git_dir=self.git_dir,
            work_tree=self.tree,
            timeout_s=FETCH_LIMIT_S,
            stdout=stdout,
            accepted=accepted,
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink()


def _is_refused(entry: os.DirEntry[str]) -> bool:
    """Whether git accepts no such name in any setting, in upper or lower case."""
    name = entry.name.lower()
    return name == REPOSITORY or (name == ".gitmodules" and entry.is_symlink())


def _grant(place: Path | os.DirEntry[str], rights: int) -> None:
    """Give the owner rights to a file or folder, which is no link. git reports it if that is not possible."""
    mode = stat.S_IMODE(place.stat(follow_symlinks=False).st_mode)
    if mode & rights != rights:
        with contextlib.suppress(PermissionError):
            Path(place).chmod(mode | rights)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder; none if it cannot be read, about which git says more."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
