"""How a run's progress is shown: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from opencode_tasks.domain.money import format_usd

if TYPE_CHECKING:
    # Prefect, pandas and SQLAlchemy behind these take seconds, which --help must not.
    from opencode_tasks.domain.hold import Hold
    from opencode_tasks.engine.run import RunEvent
    from opencode_tasks.ledger import ConcurrencyState
    from opencode_tasks.ledger import Progress as Counts

LINE_EVERY_S = 5.0
# A time that is left is shown in seconds below the first, in minutes below the second.
SHOWN_IN_SECONDS_S = 90
SHOWN_IN_MINUTES_S = 5400


class Display:
    """Shows phases, then rows done, failed, rows/s, time left and cost so far, on stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
        )
        self._bar: TaskID | None = None
        self._is_begun = False
        self._since = time.monotonic()
        self._done_before = 0
        self._is_found = False
        self._last_line = 0.0
        self._last_text: str = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._live.stop()

    def say(self, message: str) -> None:
        """A line for people."""
        # Nobody listening any more must not end a run that is being paid for.
        with contextlib.suppress(OSError, SystemExit):
            self._console.print(message, markup=False, soft_wrap=True)

    def starting(self) -> None:
        """Show on a terminal that something goes on, until the run begins."""
        if self._console.is_terminal:
            self._live.start()
            self._bar = self._live.add_task("starting", total=None)

    def told(self, told: RunEvent) -> None:
        """Show what a run tells."""
        if told.sizes is not None:
            self._begin(told)
        elif told.hold is not None:
            self._standstill(told.hold)
        elif told.progress is not None:
            self._progress(told.progress, told.pace)

    def _begin(self, told: RunEvent) -> None:
        sizes = told.sizes
        assert sizes is not None
        self._since, self._done_before = time.monotonic(), told.reused_rows
        self._is_found = sizes.is_found
        if self._is_begun:
            return  # It goes on after a wait.
        self._is_begun = True
        flying = f"{sizes.concurrency} rows in flight"
        if sizes.is_found:
            flying = f"as many rows in flight as the provider takes (up to {sizes.concurrency})"
        self.say(
            f"run {told.run_id}: {sizes.rows} rows in batches of up to {sizes.batch_size}, "
            f"{sizes.lanes} at once, {flying}"
        )
        if told.reused_rows:
            self.say(f"{told.reused_rows} rows have their answer from an earlier run (--refresh asks again)")
        if self._bar is not None:
            self._live.update(self._bar, description="", total=sizes.rows + told.reused_rows)

    def _standstill(self, hold: Hold) -> None:
        """Why nothing happens, and for how long: a countdown on a terminal, a line elsewhere."""
        assert hold.until is not None
        left_s = max(0.0, (hold.until - datetime.now(UTC)).total_seconds())
        text = f"{hold} (in {_duration(left_s)}; Ctrl-C keeps what is done)"
        if self._bar is not None:
            self._live.update(self._bar, description=text)
        elif str(hold) != self._last_text:
            self._last_text = str(hold)
            self.say(text)

    def _progress(self, counts: Counts, pace: ConcurrencyState | None) -> None:
        done = counts.total - counts.open
        in_flight = pace.in_flight if pace is not None else 0
        text = progress_line(counts, done - self._done_before, time.monotonic() - self._since, in_flight)
        if pace is not None and counts.open:
            text = f"{text}, {pace_words(pace, is_found=self._is_found)}"
        if self._bar is not None:
            self._live.update(self._bar, completed=done, description=text)
            return
        now = time.monotonic()
        due = now - self._last_line >= LINE_EVERY_S or not counts.open
        if due and text != self._last_text:
            self._last_line, self._last_text = now, text
            self.say(text)


def progress_line(counts: Counts, done_now: int, seconds: float, in_flight: int) -> str:
    """One line: rows done and failed, rows/s, time left, cost so far."""
    parts = [f"{counts.total - counts.open}/{counts.total} rows", f"{counts.failed} failed"]
    rate = done_now / seconds if seconds > 0 else 0.0
    if done_now > 0 and seconds > 0:
        parts.append(f"{rate:.1f} rows/s" if rate >= 1 else f"{rate * 60:.1f} rows/min")
        # Of those that began together the first says little of when the others end.
        if counts.open and done_now >= in_flight:
            parts.append(f"about {_duration(counts.open / rate)} left")
    cost = format_usd(counts.known_cost_pico)
    unknown = counts.cost_pico is None and not counts.open
    parts.append(f"{cost} (and an unknown part)" if unknown else f"{cost} so far" if counts.open else cost)
    return ", ".join(parts)


def pace_words(pace: ConcurrencyState, *, is_found: bool) -> str:
    """Rows in flight, and what is known of the provider's limit."""
    rows = "1 row in flight" if pace.in_flight == 1 else f"{pace.in_flight} rows in flight"
    if pace.ceiling is None:
        return f"{rows} (finding the limit)" if is_found else rows
    if pace.limit > pace.ceiling:
        return f"{rows} (trying {pace.limit}; {pace.ceiling} were taken)"
    return f"{rows} (the provider takes {pace.ceiling})"


def _duration(seconds: float) -> str:
    if seconds < SHOWN_IN_SECONDS_S:
        return f"{seconds:.0f} s"
    if seconds < SHOWN_IN_MINUTES_S:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
