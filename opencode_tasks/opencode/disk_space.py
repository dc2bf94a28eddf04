"""Faults of the machine that concern all rows: its disk, its memory, its number of open files.

opencode does not name a full disk as the cause.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from opencode_tasks.errors import SetupError

# Less than opencode writes for a row.
MIN_FREE_BYTES = 1 << 20


DISK_FAULTS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))
NO_RESOURCE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN))


def check_space(folder: Path) -> None:
    """Raise SetupError if the disk of a folder is full."""
    if shutil.disk_usage(folder).free < MIN_FREE_BYTES:
        raise _disk_error(folder, "no space is left")


def machine_fault(folder: Path, fault: OSError) -> SetupError | None:
    """The fault of this machine as SetupError: the rows stay open. None if it can concern one row alone.

    ``folder`` is on the disk on which rows work.
    """
    if fault.errno in DISK_FAULTS:
        return _disk_error(folder, fault)
    if fault.errno in NO_RESOURCE:
        return SetupError(
            "unknown",
            raw_message=f"this process gets no more files, processes or memory from the system: {fault}",
            hint="Raise the limit (ulimit -n for open files), or set a lower --concurrency, then continue "
            "with opencode-tasks resume.",
        )
    return None


def _disk_error(folder: Path, fault: object) -> SetupError:
    return SetupError(
        "unknown",
        raw_message=f"the disk of {folder} fails: {fault}",
        hint="Free some space or repair the disk, then continue with opencode-tasks resume.",
    )
