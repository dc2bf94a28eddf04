"""Standard error of a command, whose reader may go away: a closed terminal or pipe, or a full disk."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Discarding(io.FileIO):
    """File whose writes go to the null device after the first one that fails."""

    def write(self, data: ReadableBuffer, /) -> int | None:
        """Write some bytes; returns their number."""
        try:
            return super().write(data)
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return super().write(data)


def outlive_reader() -> None:
    """Have no write to ``sys.stderr`` raise: a line that nobody can read must not end a run."""
    # None if the process was started without one.
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        return
    sys.stderr.flush()
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Discarding(sys.stderr.fileno(), "w", closefd=False)),
        encoding=sys.stderr.encoding,
        errors=sys.stderr.errors,
        line_buffering=True,
    )
