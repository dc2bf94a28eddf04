"""The question after a pilot: whether the other rows are sent."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from opencode_tasks.settings import settings

if TYPE_CHECKING:
    from opencode_tasks.cli.display import Display
    from opencode_tasks.quality.estimate import Estimate
    from opencode_tasks.system import Stop


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether a standard stream is a terminal; it is None if its descriptor was closed."""
    return stream is not None and stream.isatty()


class PilotQuestion:
    """Decides after the pilot: ``is_approved`` sends the other rows, else a person on a terminal is asked.

    Without a terminal the setting ``after_pilot`` decides.
    """

    def __init__(self, display: Display, stop: Stop, *, is_approved: bool) -> None:
        self._display = display
        self._stop = stop
        self._is_approved = is_approved

    def __call__(self, rows: int, estimate: Estimate | None) -> bool:
        """Whether the rows after a pilot are sent; ``rows`` is their number."""
        del estimate
        if self._is_approved:
            return True
        if not (_is_terminal(sys.stdin) and _is_terminal(sys.stderr)):
            return settings().after_pilot == "continue"
        others = "the other row" if rows == 1 else f"the other {rows:,} rows"
        return self._display.ask(f"Send {others}?", self._stop)
