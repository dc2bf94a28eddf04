"""Limits of a workspace: number of files and bytes."""

from __future__ import annotations

from dataclasses import dataclass

from opencode_tasks.settings import settings
from opencode_tasks.workspace.fault import WorkspaceFaultError


@dataclass(slots=True)
class Size:
    """The size of a source, counted while it is read. Raises WorkspaceFaultError above a limit."""

    files: int = 0
    size_bytes: int = 0

    def add_file(self, size_bytes: int) -> None:
        """Count a file with its size."""
        self.files += 1
        max_files = settings().max_workspace_files
        if self.files > max_files:
            raise WorkspaceFaultError(
                f"it has more than {max_files:,} files (OPENCODE_TASKS_MAX_WORKSPACE_FILES)"
            )
        self.add_bytes(size_bytes)

    def add_bytes(self, size_bytes: int) -> None:
        """Count bytes of a file that is counted already."""
        self.size_bytes += size_bytes
        max_bytes = settings().max_workspace_bytes
        if self.size_bytes > max_bytes:
            raise WorkspaceFaultError(
                f"it has more than {max_bytes:,} bytes (OPENCODE_TASKS_MAX_WORKSPACE_BYTES)"
            )
