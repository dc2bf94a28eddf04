"""Sources of files: paths of this machine, and URLs that fsspec opens."""

# fsspec has no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import IO, Any

import fsspec

from opencode_tasks.attachments.address import is_local, shown
from opencode_tasks.attachments.content import read_content
from opencode_tasks.attachments.fault import FileFaultError
from opencode_tasks.domain.attached_file import FileContent
from opencode_tasks.domain.url_secrets import without_url_secrets

MAX_ERROR_CHARS = 200


def read_address(address: str, *, max_bytes: int, write: Callable[[bytes], Any] | None = None) -> FileContent:
    """Read the file at an address; see ``read_content``.

    Raises FileFaultError if it cannot be read. An OSError of ``write`` is passed on.
    """
    name = without_url_secrets(address)
    with _opened(address, name) as file:
        return read_content(_Reader(file, name), name, max_bytes=max_bytes, write=write)  # pyright: ignore[reportArgumentType]


def state_of(address: str) -> tuple[int, int]:
    """The size in bytes and the time of the last change in nanoseconds of a file on this machine.

    Raises FileFaultError if there is none.
    """
    try:
        found = os.stat(address)  # noqa: PTH116  a path may have any text
    except (OSError, ValueError) as error:
        raise _missing(address, error) from None
    if stat.S_ISDIR(found.st_mode):
        raise FileFaultError(f"{shown(address)!r} is a folder, and no file")
    if not stat.S_ISREG(found.st_mode):
        raise FileFaultError(f"{shown(address)!r} is no regular file")
    return found.st_size, found.st_mtime_ns


@contextmanager
def _opened(address: str, name: str) -> Generator[IO[bytes]]:
    if is_local(address):
        state_of(address)
        try:
            local = open(address, "rb")  # noqa: PTH123, SIM115  closed below
        except OSError as error:
            raise _missing(address, error) from None
        with local:
            yield local
        return
    try:
        file: Any = fsspec.open(address, "rb")
        opened: Any = file.open()
    except FileNotFoundError:
        raise FileFaultError(f"there is no file {shown(name)}") from None
    # The errors depend on the driver of the URL.
    except Exception as error:
        raise _unreadable(name, error, is_final=isinstance(error, ImportError | ValueError)) from error
    with opened:
        yield opened


class _Reader:
    """A file whose errors of reading are faults of it."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes."""
        try:
            return self._file.read(size)
        except IsADirectoryError:
            raise FileFaultError(f"{shown(self._name)!r} is a folder, and no file") from None
        # The errors depend on the driver of the URL.
        except Exception as error:
            raise _unreadable(self._name, error, is_final=False) from error


def _missing(address: str, error: OSError | ValueError) -> FileFaultError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return FileFaultError(f"there is no file {shown(address)!r}")
    return _unreadable(address, error, is_final=isinstance(error, ValueError | PermissionError))


def _unreadable(name: str, error: Exception, *, is_final: bool) -> FileFaultError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = without_url_secrets(" ".join(reason.split()))[:MAX_ERROR_CHARS] or type(error).__name__
    return FileFaultError(f"the file {shown(name)} cannot be read: {text}", is_final=is_final)
