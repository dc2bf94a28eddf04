"""Standard output and error of a command, whose readers may go away, and whose disk may be full."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_NO_READER = {errno.EPIPE, errno.EIO}


class _Stream(io.FileIO):
    """A standard stream that discards everything after the first write that fails.

    With ``reports``, that write raises an OSError with this name, unless only the reader has gone.
    """

    def __init__(self, descriptor: int, reports: str | None) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._reports = reports

    def write(self, data: ReadableBuffer, /) -> int | None:
        """Write some bytes; returns their number."""
        try:
            return super().write(data)
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if self._reports is not None and error.errno not in _NO_READER:
                raise OSError(error.errno, error.strerror, self._reports) from None
            return super().write(data)


def outlive_readers() -> None:
    """Have a command reach its own end and exit code if nobody reads what it prints.

    Only a result that cannot be written, for example to a full disk, is an error.
    """
    # A stream is None if the process was started without it.
    if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdout = _wrapped(sys.stdout, "standard output")
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr = _wrapped(sys.stderr, None)


def _wrapped(stream: IO[str], reports: str | None) -> io.TextIOWrapper:
    old = cast("Any", stream)
    old.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Stream(old.fileno(), reports)),
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=old.line_buffering or reports is None,
    )
