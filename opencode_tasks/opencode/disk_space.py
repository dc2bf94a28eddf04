"""Space on the disk of the instance directories: opencode does not name a full disk as the cause."""

from __future__ import annotations

import shutil
from pathlib import Path

from opencode_tasks.errors import SetupError

# Less than opencode writes for a row.
MIN_FREE_BYTES = 1 << 20


def check_space(folder: Path) -> None:
    """Raise SetupError if the disk of a folder is full."""
    if shutil.disk_usage(folder).free < MIN_FREE_BYTES:
        raise disk_error(folder, "no space is left")


def disk_error(folder: Path, fault: object) -> SetupError:
    """The fault of a disk as SetupError: the rows stay open."""
    return SetupError(
        "unknown",
        raw_message=f"the disk of {folder} fails: {fault}",
        hint="Free some space or repair the disk, then continue with opencode-tasks resume.",
    )
