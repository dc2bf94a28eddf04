"""Where the events of a run are shown. Prefect is not imported here: a command may run without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opencode_tasks.ledger import Progress
from opencode_tasks.quality.drift import CanaryReport


class Publisher:
    """Shows elsewhere what happens in a run; this one shows nothing. Its own failures never end a run."""

    def progress(self, run_id: str, progress: Progress) -> None:
        """Take the progress, about every second."""

    def stopped(self, ledger_url: str, run_id: str) -> None:
        """Take that the run is paused or stopped, before its state changes."""

    def finished(
        self, run_id: str, progress: Progress, cost: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
    ) -> None:
        """Take the end of the run. ``cost`` has a ledger line per model."""

    def drift(self, run_id: str, report: CanaryReport) -> None:
        """Take that the canaries of the run show a drift, before its rows are sent."""

    def info(self, text: str) -> None:
        """Log a line."""

    def warning(self, text: str) -> None:
        """Log a warning."""
