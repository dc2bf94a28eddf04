"""Progress of a run on stderr: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from opencode_tasks.cli.progress import countdown, hold_line, pace_text, progress_line

if TYPE_CHECKING:
    # Prefect, pandas and SQLAlchemy behind these take seconds to load.
    from opencode_tasks.domain.hold import Hold
    from opencode_tasks.engine.run import RunEvent
    from opencode_tasks.ledger import ConcurrencyState
    from opencode_tasks.ledger import Progress as Counts

LINE_EVERY_S = 5.0
# Retries of single rows are shorter and need no line.
SHOWN_HOLD_S = 2.0


class Display:
    """Phases, progress and holds of one run. ``grace_s`` is the time that rows get after a stop."""

    def __init__(self, *, grace_s: float) -> None:
        self._grace_s = grace_s
        self._console = Console(stderr=True, highlight=False)
        self._live = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
        )
        self._bar: TaskID | None = None
        self._in_flight: int | None = None
        self._since = time.monotonic()
        self._rows = 0
        self._completed_before: int | None = None
        self._is_found = False
        self._has_ended = False
        self._line_at = 0.0
        self._last_line: str | None = None
        self._hold_key: tuple[str, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def finish(self) -> None:
        """Remove the live line: what follows is the result."""
        # A line that was never started would print an empty one.
        if self._bar is not None:
            self._live.stop()
            self._bar = None

    def say(self, message: str) -> None:
        """Print a line for people."""
        # A terminal that is gone must not end a run that costs money.
        with contextlib.suppress(OSError, SystemExit):
            self._console.print(message, markup=False, soft_wrap=True)

    def start(self) -> None:
        """Show on a terminal that the command works, until the run begins."""
        if self._console.is_terminal:
            self._live.start()
            self._bar = self._live.add_task("starting", total=None)

    def stopping(self) -> None:
        """Say that a stop was received, and what the command waits for."""
        rows = "1 row" if self._in_flight == 1 else f"{self._in_flight} rows"
        wait = (
            f" for up to {self._grace_s:g} s until {rows} in flight are recorded" if self._in_flight else ""
        )
        self.say(f"stopping: waiting{wait or ' for the processes of this command to end'}")
        if self._bar is not None:
            self._live.update(self._bar, description="stopping")

    def show(self, event: RunEvent) -> None:
        """Show an event of the run."""
        if event.sizes is not None:
            self._begin(event)
        elif event.progress is not None:
            self._show_progress(event.progress, event.pace, event.hold)
        elif event.hold is not None:
            self._show_hold(event.hold)

    def _begin(self, event: RunEvent) -> None:
        sizes = event.sizes
        assert sizes is not None
        is_resumed = self._in_flight is not None
        self._since, self._rows, self._completed_before, self._in_flight = (
            time.monotonic(),
            sizes.rows,
            None,
            0,
        )
        self._is_found = sizes.is_found
        self._hold_key = None
        if is_resumed:
            return  # After a wait: the same run, with the rows that are left.
        in_flight = f"{sizes.concurrency} rows in flight"
        if sizes.is_found:
            in_flight = f"up to {sizes.concurrency} rows in flight, the number is found by trial"
        self.say(
            f"run {event.run_id}: {sizes.rows} rows in batches of up to {sizes.batch_size}, "
            f"{sizes.lanes} at once, {in_flight}"
        )
        if event.reused_rows:
            self.say(
                f"{event.reused_rows} rows have an answer from an earlier run (--refresh sends them again)"
            )
        if self._bar is not None:
            self._live.update(self._bar, description="", total=sizes.rows + event.reused_rows)

    def _show_hold(self, hold: Hold) -> None:
        """A line when a hold begins, and on a terminal a countdown."""
        key = (hold.error_type, hold.message)
        now = datetime.now(UTC)
        is_long = hold.until is None or (hold.until - now).total_seconds() >= SHOWN_HOLD_S
        if key != self._hold_key and is_long:
            self._hold_key = key
            self.say(hold_line(hold))
        if self._bar is not None:
            self._live.update(self._bar, description=countdown(hold, now))

    def _show_progress(self, counts: Counts, pace: ConcurrencyState | None, hold: Hold | None) -> None:
        if self._completed_before is None:
            # Without the rows that ended since the run began: the first event comes a second after that.
            self._completed_before = max(0, counts.completed - (self._rows - counts.open))
        self._in_flight = pace.in_flight if pace is not None else 0
        if self._bar is not None:
            self._live.update(self._bar, completed=counts.total - counts.open)
        if hold is not None:
            self._show_hold(hold)
            return
        self._hold_key = None
        completed_now = counts.completed - self._completed_before
        line = progress_line(counts, completed_now, time.monotonic() - self._since, self._in_flight)
        if pace is not None and counts.open:
            line = f"{line}, {pace_text(pace, is_found=self._is_found)}"
        if self._bar is not None:
            self._live.update(self._bar, description=line)
        else:
            self._print_progress(line, has_ended=not counts.open)

    def _print_progress(self, line: str, *, has_ended: bool) -> None:
        """Print a progress line every few seconds, and the last one once."""
        now = time.monotonic()
        is_due = now - self._line_at >= LINE_EVERY_S or has_ended
        if is_due and line != self._last_line and not self._has_ended:
            self._line_at, self._last_line, self._has_ended = now, line, has_ended
            self.say(line)
