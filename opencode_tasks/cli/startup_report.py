"""Telling how long the first row took, and what of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from opencode_tasks.system.startup_timing import Part, process_began, startup_timing, told

if TYPE_CHECKING:
    from opencode_tasks.engine.run import RunEvent


class StartupReport:
    """Tells once, when a row of this process has its outcome, by the ledger's times of its attempt."""

    def __init__(self, ledger_url: str, say: Callable[[str], None]) -> None:
        self._ledger_url = ledger_url
        self._say = say
        self._submitted: float | None = None
        self._open: int | None = None
        self._is_told = False

    def told(self, told: RunEvent) -> None:
        """Take what a run tells."""
        if told.sizes is not None and self._submitted is None:
            self._submitted = time.time()
        elif told.progress is not None and not self._is_told and self._submitted is not None:
            before, self._open = self._open, told.progress.open
            if told.progress.open == 0 or (before is not None and told.progress.open < before):
                self._is_told = True
                self._tell(told.run_id, self._submitted)

    def _tell(self, run_id: str, submitted: float) -> None:
        from opencode_tasks.ledger import Ledger

        with Ledger.open(self._ledger_url) as ledger:
            first = ledger.attempts.first_ended(run_id, since=datetime.fromtimestamp(submitted, UTC))
        if first is None:
            return
        start, end = (moment.timestamp() for moment in first)
        startup_timing.add([Part("worker", submitted, start), Part("first prompt", start, end)])
        self._say(told(startup_timing.parts, process_began(), end))
