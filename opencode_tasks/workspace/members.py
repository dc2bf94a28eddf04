"""Members of an archive: their names, which must stay in its folder, and its links, which are made last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from opencode_tasks.workspace.fault import WorkspaceFaultError

# As Linux does: a target that follows more links leads in a circle.
_MAX_LINKS_FOLLOWED = 40


@dataclass(slots=True)
class Members:
    """The members of an archive by their names, added while it is read.

    Names alone decide, so that a fault is found before anything is extracted. Raises WorkspaceFaultError for
    a member that may not be extracted.
    """

    _files: set[str] = field(default_factory=set[str])
    _folders: set[str] = field(default_factory=set[str])
    _links: dict[str, str] = field(default_factory=dict[str, str])

    def add_file(self, name: str) -> None:
        """Add a file."""
        self._files.add(_inside(name))

    def add_folder(self, name: str) -> None:
        """Add a folder. Those that only occur in the names of others need not be added."""
        self._folders.add(_inside(name))

    def add_link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        path = _inside(name)
        if path in self._links:
            raise WorkspaceFaultError(f"the archive has the link {name!r} twice")
        self._links[path] = target

    def add_hard_link(self, name: str, target: str) -> None:
        """Add a hard link to an earlier file, or to an earlier symbolic link, which is added again."""
        first = str(PurePosixPath(target))
        if first in self._links:
            self.add_link(name, self._links[first])
        elif first in self._files:
            self.add_file(name)
        else:
            raise WorkspaceFaultError(f"the link {name!r} of the archive leaves it, or precedes its file")

    def is_link(self, name: str) -> bool:
        """Whether a member is a symbolic link."""
        return str(PurePosixPath(name)) in self._links

    def check(self) -> None:
        """Check each member against all others."""
        for path in (*self._files, *self._folders, *self._links):
            for parent in _parents(path):
                if parent in self._links or parent in self._files:
                    raise WorkspaceFaultError(
                        f"the member {path!r} of the archive is below {parent!r}, which is no folder"
                    )
        for path in (*self._files, *self._links):
            if path in self._folders or path == "." or (path in self._files and path in self._links):
                raise WorkspaceFaultError(f"the archive has the member {path!r} twice, of two kinds")
        for path in self._links:
            self._check_link(path)

    def make_links(self, folder: Path) -> None:
        """Make the links below a folder that has all other members."""
        for path, target in self._links.items():
            make_link(folder, path, target)

    def _check_link(self, path: str) -> None:
        """Follow a link by the names alone, through other links too."""
        if self._links[path].startswith("/"):
            raise WorkspaceFaultError(f"the link {path!r} of the archive leaves it")
        at, followed = path.split("/")[:-1], 0
        left = self._links[path].split("/")[::-1]
        while left:
            part = left.pop()
            if part == "..":
                if not at:
                    raise WorkspaceFaultError(f"the link {path!r} of the archive leaves it")
                at.pop()
            elif part not in ("", "."):
                at.append(part)
                if (target := self._links.get("/".join(at))) is not None:
                    followed += 1
                    if followed > _MAX_LINKS_FOLLOWED:
                        raise WorkspaceFaultError(f"the link {path!r} of the archive leads in a circle")
                    at.pop()
                    left += target.split("/")[::-1]


def make_link(folder: Path, name: str, target: str) -> None:
    """Make a symbolic link below a folder, never through another link. Raises WorkspaceFaultError for one."""
    link = folder / name
    for parent in _parents(name):
        if (folder / parent).is_symlink():
            raise WorkspaceFaultError(f"the link {name!r} of the archive is below the link {parent!r}")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def _inside(name: str) -> str:
    """The name of a member without redundant slashes and dots."""
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise WorkspaceFaultError(f"the member {name!r} of the archive would be outside of it")
    return str(PurePosixPath(name))


def _parents(path: str) -> Iterator[str]:
    """The names of the folders above a member, without the top."""
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))
