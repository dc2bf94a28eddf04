"""Kept files: workspaces and files of rows in the folders of this machine that no option names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from opencode_tasks.errors import SetupError
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.instance_dir import instance_dirs_root
from opencode_tasks.system.folders import data_folder, remove_tree


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedFiles:
    """The number of kept workspaces, and of stored diffs and artifacts, with the size of all their files."""

    workspaces: int = 0
    files: int = 0
    size_bytes: int = 0


def workspaces_folder() -> Path:
    """The folder for kept workspaces. It may not exist."""
    return instance_dirs_root().parent / "workspaces"


def files_folder() -> Path:
    """The folder for long diffs and artifacts of runs without ``--artifacts``. It may not exist."""
    return data_folder() / "artifacts"


def remove_kept_files(ledger: Ledger, run_ids: Iterable[str]) -> RemovedFiles:
    """Remove the kept files of purged runs on this machine.

    Those stay to which rows of other runs refer, which reuse the answer, and those in a folder of
    ``--artifacts``, which is the user's. Raises SetupError if a folder cannot be removed.
    """
    workspaces, files, size_bytes = 0, 0, 0
    # A name that is no plain one would lead out of the folders.
    for run_id in (one for one in run_ids if one not in ("", ".", "..") and Path(one).name == one):
        kept, stored = workspaces_folder() / run_id, files_folder() / run_id
        if kept.is_dir():
            workspaces += sum(1 for _ in kept.iterdir())
            size_bytes += _size(kept)[1]
            _remove(kept)
        if stored.is_dir() and not ledger.retention.has_references(run_id):
            count, size = _size(stored)
            files, size_bytes = files + count, size_bytes + size
            _remove(stored)
    return RemovedFiles(workspaces=workspaces, files=files, size_bytes=size_bytes)


def _remove(folder: Path) -> None:
    remove_tree(folder)
    if folder.exists():
        raise SetupError("unknown", raw_message=f"cannot remove {folder}", hint="remove the folder by hand")


def _size(folder: Path) -> tuple[int, int]:
    """The number of files below a folder, and their bytes."""
    sizes = [path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return len(sizes), sum(sizes)
