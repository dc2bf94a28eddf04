"""Time until the first row's outcome, by part of the start: a line of ``--verbose``."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from opencode_tasks.system.startup_times import Part, process_start_time, startup_timing, timing_summary

if TYPE_CHECKING:
    from opencode_tasks.engine.run import RunEvent


class StartupReport:
    """Says once, when a row of this process has its outcome, how long each part of the start took.

    The times of the row are those of its attempt in the ledger.
    """

    def __init__(self, ledger_url: str, say: Callable[[str], None]) -> None:
        self._ledger_url = ledger_url
        self._say = say
        self._submitted_at: float | None = None
        self._open: int | None = None
        self._is_done = False

    def show(self, event: RunEvent) -> None:
        """Take an event of the run."""
        if event.sizes is not None and self._submitted_at is None:
            self._submitted_at = time.time()
        elif event.progress is not None and not self._is_done and self._submitted_at is not None:
            before, self._open = self._open, event.progress.open
            if event.progress.open == 0 or (before is not None and event.progress.open < before):
                self._is_done = True
                self._report(event.run_id, self._submitted_at)

    def _report(self, run_id: str, submitted_at: float) -> None:
        from opencode_tasks.ledger import Ledger

        with Ledger.open(self._ledger_url) as ledger:
            times = ledger.attempts.first_ended(run_id, since=datetime.fromtimestamp(submitted_at, UTC))
        if times is None:
            return
        start, end = (time_.timestamp() for time_ in times)
        startup_timing.add([Part("worker", submitted_at, start), Part("first prompt", start, end)])
        self._say(timing_summary(startup_timing.parts, process_start_time(), end))
