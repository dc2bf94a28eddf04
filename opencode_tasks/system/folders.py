"""The user's folders, also for a user without a home, as in many containers."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

from opencode_tasks.system.processes import run_command

REMOVE_LIMIT_S = 120.0
APP = "opencode-tasks"
# Directory for temporary files that are kept when the machine restarts.
LASTING_TEMP = Path("/var/tmp")


def home() -> Path:
    """The user's home.

    It is the root directory if HOME is not set and the user has no entry in passwd. HOME is then set, since
    Prefect, platformdirs and opencode fail without one.
    """
    try:
        return Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"
        return Path("/")


def data_folder() -> Path:
    """Folder of the user's data of this project. It may not exist, nor be writable."""
    home()
    return user_data_path(APP)


def cache_folder() -> Path:
    """Folder of the downloads of this project in the user's cache. It may not exist, nor be writable."""
    home()
    return user_cache_path(APP)


def can_be_made(folder: Path) -> bool:
    """Whether a folder exists and this process may write to it, or may make it."""
    for existing in (folder, *folder.parents):
        try:
            is_there = existing.exists()
        except OSError:
            return False
        if is_there:
            return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    return False


def private_temp_folders() -> list[Path]:
    """Private folders for temporary files, of this user alone, the one that outlives a restart first.

    They are made. Empty if there is no writable directory for temporary files.
    """
    try:
        parents = (LASTING_TEMP, Path(tempfile.gettempdir()))
    except FileNotFoundError:
        parents = (LASTING_TEMP,)
    folders = [parent.resolve() / f"{APP}-{os.getuid()}" for parent in parents]
    return [folder for folder in folders if _is_private(folder)]


def _is_private(folder: Path) -> bool:
    """Whether a directory is ours alone; makes it if there is none. Others can write to its parent."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.getuid()
        and not found.st_mode & 0o077
        and os.access(folder, os.W_OK)
    )


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that programs made in it: deep folders, and those without permissions."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        run_command(["chmod", "-R", "u+rwX", str(folder)], timeout_s=REMOVE_LIMIT_S)
        run_command(["rm", "-rf", str(folder)], timeout_s=REMOVE_LIMIT_S)
