"""Folders as sources: their digest, and private copies of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from opencode_tasks.system import run_command
from opencode_tasks.system.folders import remove_tree
from opencode_tasks.workspace.fault import WorkspaceFaultError
from opencode_tasks.workspace.git import run_git
from opencode_tasks.workspace.limits import Size

COPY_LIMIT_S = 1800.0
CHUNK_BYTES = 1 << 20
# The state of a repository changes with each look at it, and is not the content of the work.
REPOSITORY = ".git"


def digest_of(folder: Path) -> str:
    """SHA-256 of a folder in hexadecimal: of paths, executable bits, targets of links and contents.

    The repository at the top, ``.git``, is left out. Raises WorkspaceFaultError above a limit, and for a file
    that cannot be copied.
    """
    digest, size = hashlib.sha256(), Size()
    for path in _entries(folder):
        name = os.fsencode(path.relative_to(folder))
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            kind, content = b"l", os.fsencode(_checked_target(folder, path))
        elif stat.S_ISDIR(found.st_mode):
            kind, content = b"d", b""
        elif stat.S_ISREG(found.st_mode):
            size.add_file(found.st_size)
            kind, content = b"x" if found.st_mode & stat.S_IXUSR else b"f", _content_digest(path)
        else:
            raise WorkspaceFaultError(f"{path} is neither a file, a folder nor a link")
        for part in (kind, name, content):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def copy_folder(source: Path, folder: Path) -> None:
    """Make a private copy of a folder, with shared blocks if the file system has them.

    A ``.git`` that leads to a repository elsewhere is left out, as in a linked worktree or a submodule: a
    commit there would change its source.
    """
    if shutil.which("cp") is None or not _copied_by_cp(source, folder):
        remove_tree(folder)
        shutil.copytree(source, folder, symlinks=True)
    for parent, folders, files in os.walk(folder):
        if REPOSITORY in (*folders, *files):
            folders[:] = [name for name in folders if name != REPOSITORY]
            _separate(Path(parent, REPOSITORY))
    folder.chmod(folder.stat().st_mode | stat.S_IRWXU)


def _separate(repository: Path) -> None:
    """Remove a copied ``.git`` that shares a part with another one, or else its path to other files."""
    if repository.is_symlink() or not repository.is_dir():
        repository.unlink()
    elif (repository / "commondir").exists() or _has_link_out(repository):
        shutil.rmtree(repository)
    else:
        for config in (repository / "config", repository / "config.worktree"):
            if config.is_file():
                run_git(["config", "--file", str(config), "--unset-all", "core.worktree"])


def _has_link_out(folder: Path) -> bool:
    """Whether a link at any depth of a folder leads out of it, or in a circle."""
    inside = os.path.realpath(folder) + os.sep
    paths = (Path(parent, name) for parent, *names in os.walk(folder) for name in (*names[0], *names[1]))
    return any(
        path.is_symlink() and (not path.exists() or not os.path.realpath(path).startswith(inside))
        for path in paths
    )


def _copied_by_cp(source: Path, folder: Path) -> bool:
    folder.mkdir(parents=True)
    command = ["cp", "-a", "--no-preserve=ownership", "--reflink=auto", "--", f"{source}/.", str(folder)]
    return run_command(command, timeout_s=COPY_LIMIT_S).returncode == 0


def _entries(folder: Path) -> Iterator[Path]:
    """All paths below a folder in a fixed order, without the repository at its top."""
    for parent, folders, files in os.walk(folder, onerror=_unreadable):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name != REPOSITORY]
        folders.sort()
        names = sorted([*folders, *(name for name in files if name != REPOSITORY)])
        yield from (Path(parent, name) for name in names)


def _unreadable(error: OSError) -> None:
    raise WorkspaceFaultError(f"cannot read {error.filename}: {error.strerror}")


def _checked_target(folder: Path, link: Path) -> str:
    """The target of a link. One that names its place in the folder absolutely would lead to the source."""
    target = link.readlink()
    if target.is_absolute() and target.is_relative_to(folder):
        raise WorkspaceFaultError(f"the link {link} names a place in the folder by its absolute path")
    return str(target)


def _content_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise WorkspaceFaultError(f"cannot read {path}: {error.strerror}") from None
