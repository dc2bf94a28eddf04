"""Standard output and error of a command that goes on after their reader has gone."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import IO, Any, cast

_NO_READER = {errno.EPIPE, errno.EIO}


class StandardStream:
    """A standard stream from which nobody has to read.

    When the reader of a pipe, such as ``head``, or the terminal is gone, the command continues to its own end
    and exit code, and what it writes is discarded. Any other error, such as that of a full disk, is an
    OSError with the name of the stream, once.
    """

    def __init__(self, stream: IO[Any], name: str) -> None:
        self._stream = stream
        self._name = name

    @property
    def buffer(self) -> StandardStream:
        """The stream for bytes."""
        return StandardStream(cast("Any", self._stream).buffer, self._name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, content: str | bytes) -> int:
        """Write a text, or bytes to ``buffer``."""
        # With an empty text, click finds out what kind of stream this is, and ignores an error.
        if content != "":
            self._try(lambda: self._stream.write(content))
        return len(content)

    def flush(self) -> None:
        """Write what is buffered."""
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            # The descriptor, so that nothing that is buffered fails again at the end of the process.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
            if error.errno not in _NO_READER:
                raise OSError(error.errno, error.strerror, self._name) from None


def use_standard_streams() -> None:
    """Have this process write to its standard streams in this way until its end."""
    # A stream that the caller has closed is None.
    if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdout = cast("Any", StandardStream(sys.stdout, "standard output"))
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr = cast("Any", StandardStream(sys.stderr, "standard error"))
