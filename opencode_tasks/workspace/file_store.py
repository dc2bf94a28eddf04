"""Folder at a path or an fsspec URL, in which the files of rows are stored."""

# fsspec has no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import fsspec

from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.workspace.fault import WorkspaceFaultError

T = TypeVar("T")
# In an address, fsspec or a driver of it may read these as something else than a part of a name. Bytes that
# are not UTF-8 are surrogates in a name.
_NOT_PLAIN = re.compile(r"[%:?#&*\[\]\\\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class FileStore:
    """A folder for files; ``address`` is a path or an fsspec URL.

    Agents choose names. What is no plain part of an address is percent-encoded in the names of stored files.
    """

    address: str

    def put(self, file: Path, name: str) -> str:
        """Store a copy of a file under a name with slashes and return its address.

        Raises WorkspaceFaultError if it cannot be written.
        """

        def copy(system: Any, path: str) -> None:
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.put_file(str(file), path)

        self._reported("write", name, copy)
        return without_url_secrets(self._address_of(name))

    def get(self, name: str, file: Path) -> bool:
        """Copy a stored file to a path of this machine; False if there is none with this name.

        Raises WorkspaceFaultError if it cannot be read.
        """

        def copy(system: Any, path: str) -> bool:
            try:
                system.get_file(path, str(file))
            except FileNotFoundError:
                return False
            return True

        return self._reported("read", name, copy)

    def remove(self, name: str) -> None:
        """Remove a stored file, if there is one. Raises WorkspaceFaultError if it cannot be removed."""

        def remove(system: Any, path: str) -> None:
            with suppress(FileNotFoundError):
                system.rm_file(path)

        self._reported("remove", name, remove)

    def names(self) -> list[str]:
        """The names of the stored files without a slash; raises as ``get`` does."""

        def listed(system: Any, path: str) -> list[str]:
            system.invalidate_cache()
            try:
                found: list[str] = system.ls(path, detail=False)
            except FileNotFoundError:
                return []
            return [unquote(name.rstrip("/").rpartition("/")[2], errors="surrogateescape") for name in found]

        return self._reported("read", "", listed)

    def check(self) -> None:
        """Raise WorkspaceFaultError if no file can be written and removed."""

        def write(system: Any, path: str) -> None:
            folder = path.rstrip("/")
            mark = f"{folder}/.opencode-tasks-{uuid.uuid4().hex}"
            system.makedirs(folder, exist_ok=True)
            system.pipe_file(mark, b"")
            system.rm_file(mark)

        self._reported("write", "", write)

    def _address_of(self, name: str) -> str:
        """The address of a file. In a chain (``dir://folder::s3://bucket``), the first URL has its path."""
        parts = self.address.split("::")
        first = next((index for index, part in enumerate(parts) if "://" in part), -1)
        parts[first] = f"{parts[first].rstrip('/')}/{_encoded(name)}"
        return "::".join(parts)

    def _reported(self, verb: str, name: str, use: Callable[[Any, str], T]) -> T:
        """Use the file system with the path of a file; its errors are reported as WorkspaceFaultError."""
        try:
            # A name is added to the path, since it may look like a part of a URL.
            system, folder = fsspec.core.url_to_fs(self.address)
            return use(system, f"{folder.rstrip('/')}/{_encoded(name)}")
        # The errors depend on the driver of the URL.
        except Exception as error:
            shown = without_url_secrets(f"{self._address_of(name)}: {type(error).__name__}: {error}")
            raise WorkspaceFaultError(f"cannot {verb} {shown}") from error


def _encoded(name: str) -> str:
    return _NOT_PLAIN.sub(lambda found: quote(os.fsencode(found[0]), safe=""), name)


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
