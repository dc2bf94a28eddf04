"""Progress of a run on stderr: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import termios
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from select import select
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from opencode_tasks.engine.canary_text import canary_lines
from opencode_tasks.engine.estimate_text import estimate_lines
from opencode_tasks.engine.progress_text import RunLines, count_of, countdown
from opencode_tasks.engine.summary_text import quality_lines
from opencode_tasks.quality.drift import report_json

if TYPE_CHECKING:
    # Prefect, pandas and SQLAlchemy behind these take seconds to load.
    from opencode_tasks.domain.hold import Hold
    from opencode_tasks.engine.run import RunEvent
    from opencode_tasks.ledger import Progress as Counts
    from opencode_tasks.system import Stop

LINE_EVERY_S = 5.0
ASK_EVERY_S = 0.2


class Display:
    """Phases, progress and holds of one run. ``grace_s`` is the time that rows get after a stop.

    Other threads print no line while a thread holds ``lock``.
    """

    def __init__(self, *, grace_s: float) -> None:
        self.lock: AbstractContextManager[object] = RLock()
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
        self._part: str | None = None
        self._lines = RunLines()
        self._has_ended = False
        self._line_at = 0.0
        self._last_line: str | None = None

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
        with self.lock:
            self._console.print(message, markup=False, soft_wrap=True)

    def start(self) -> None:
        """Show on a terminal that the command works, until the run begins."""
        if self._console.is_terminal:
            self._live.start()
            self._bar = self._live.add_task("starting", total=None)

    def stopping(self) -> None:
        """Say that a stop was received, and what the command waits for."""
        rows = count_of(self._in_flight or 0)
        wait = (
            f" for up to {self._grace_s:g} s until {rows} in flight are recorded" if self._in_flight else ""
        )
        self.say(f"stopping: waiting{wait or ' for the processes of this command to end'}")
        if self._bar is not None:
            self._live.update(self._bar, description="stopping")

    def show(self, event: RunEvent) -> None:
        """Show an event of the run."""
        for warning in (event.warning, event.output_fault):
            if warning is not None:
                self.say(f"warning: {warning}")
        if event.sizes is not None:
            self._begin(event)
        elif event.progress is not None:
            self._show_progress(event, event.progress)
        elif event.hold is not None:
            self._show_hold(event.hold)
        estimate = () if event.estimate is None else estimate_lines(event.estimate)
        canary = () if event.canary is None else canary_lines(report_json(event.canary))
        for line in (*estimate, *quality_lines(event.quality), *canary):
            self.say(line)

    def ask(self, question: str, stop: Stop) -> bool:
        """Ask a person on the terminal; True for yes. Raises KeyboardInterrupt after a stop."""
        has_bar = self._bar is not None
        if has_bar:
            self._live.stop()
        # Keys that were pressed before are no answer.
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
        with self.lock:
            self._console.print(f"{question} [y/N] ", markup=False, end="")
        while not select([sys.stdin], [], [], ASK_EVERY_S)[0]:
            stop.check()
        answer = sys.stdin.readline().strip().lower()
        if has_bar:
            self._live.start()
        return answer in {"y", "yes"}

    def _begin(self, event: RunEvent) -> None:
        assert event.sizes is not None
        is_resumed = self._in_flight is not None and event.part == self._part
        self._in_flight, self._part = 0, event.part
        self._has_ended = self._has_ended and is_resumed
        now = time.monotonic()
        for line in self._lines.start(event, now):
            self.say(line)
        # A line at the start would say that nothing has happened yet.
        self._line_at = now
        # After a wait, the line shows the rows that ended before.
        if self._bar is not None and not is_resumed:
            total = event.sizes.rows + event.reused_rows
            self._live.update(
                self._bar, description="", total=event.progress.total if event.progress else total
            )

    def _show_hold(self, hold: Hold) -> None:
        """A line when a hold begins, and on a terminal a countdown."""
        now = datetime.now(UTC)
        if (line := self._lines.hold(hold, now)) is not None:
            self.say(line)
        if self._bar is not None:
            self._live.update(self._bar, description=countdown(hold, now))

    def _show_progress(self, event: RunEvent, counts: Counts) -> None:
        self._in_flight = event.pace.in_flight if event.pace is not None else 0
        if self._bar is not None:
            self._live.update(self._bar, completed=counts.total - counts.open)
        if event.hold is not None:
            self._show_hold(event.hold)
            return
        for line in self._lines.resumed(counts):
            self.say(line)
        line = self._lines.progress(event, time.monotonic())
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
