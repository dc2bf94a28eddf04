"""Folder at a path or an fsspec URL, in which the files of rows are stored."""

# fsspec has no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import fsspec

from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.workspace.fault import WorkspaceFaultError


@dataclass(frozen=True, slots=True)
class FileStore:
    """A folder for files; ``address`` is a path or an fsspec URL."""

    address: str

    def put(self, file: Path, name: str) -> str:
        """Store a copy of a file under a name with slashes and return its address.

        Raises WorkspaceFaultError if it cannot be written.
        """
        target = f"{self.address.rstrip('/')}/{name}"
        try:
            system: Any
            system, path = fsspec.core.url_to_fs(target)
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.put_file(str(file), path)
        # The errors depend on the driver of the URL.
        except Exception as error:
            shown = without_url_secrets(f"{target}: {type(error).__name__}: {error}")
            raise WorkspaceFaultError(f"cannot write {shown}") from error
        return without_url_secrets(target)


@contextmanager
def open_stored(address: str) -> Generator[IO[bytes]]:
    """Open the file at an address that ``put`` returned.

    One with the name of a machine can be opened there, or on a disk that is shared with it. Raises
    WorkspaceFaultError if it cannot be opened. Errors of reading are those of the file.
    """
    parts = urlsplit(address)
    if parts.scheme == "file" and parts.netloc:
        address = unquote(parts.path)
        if not Path(address).exists():
            raise WorkspaceFaultError(
                f"{address} is on the machine {parts.netloc}; give --artifacts with a URL"
            )
    try:
        file: Any = fsspec.open(address, "rb")
        opened: Any = file.open()
    # The errors depend on the driver of the URL.
    except Exception as error:
        shown = without_url_secrets(f"{address}: {type(error).__name__}: {error}")
        raise WorkspaceFaultError(f"cannot read {shown}") from error
    with opened:
        yield opened
