"""Lines that describe the progress and the holds of a run. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from opencode_tasks.cli.messages import presentable
from opencode_tasks.domain.money import format_usd

if TYPE_CHECKING:
    # SQLAlchemy and Prefect behind these take seconds to load.
    from opencode_tasks.domain.hold import Hold
    from opencode_tasks.ledger import ConcurrencyState
    from opencode_tasks.ledger import Progress as Counts

# A duration below the first is shown in seconds, below the second in minutes.
SHOWN_IN_SECONDS_S = 90
SHOWN_IN_MINUTES_S = 5400
# Message of a hold that has no message of a provider.
NO_MESSAGE = ("", "rows wait")
OTHER_RUN = "another run has these rows"


def progress_line(counts: Counts, completed_now: int, seconds: float, in_flight: int) -> str:
    """Rows ended and failed, pace, time left and cost so far.

    ``completed_now`` rows were completed in these ``seconds``; failed rows are no pace.
    """
    parts = [f"{counts.total - counts.open}/{counts.total} rows", f"{counts.failed} failed"]
    if completed_now > 0 and seconds > 0:
        rate = completed_now / seconds
        parts.append(f"{rate:.1f} rows/s" if rate >= 1 else f"{rate * 60:.1f} rows/min")
        # The first rows of those that started together say little about the end of the others.
        if counts.open and completed_now >= in_flight:
            parts.append(f"about {duration(counts.open / rate)} left")
    cost = format_usd(counts.known_cost_pico)
    is_unknown = counts.cost_pico is None and not counts.open
    parts.append(f"{cost} (and an unknown part)" if is_unknown else f"{cost} so far" if counts.open else cost)
    return ", ".join(parts)


def pace_text(pace: ConcurrencyState, *, is_found: bool) -> str:
    """Rows in flight, and what is known about the limit of the provider."""
    rows = "1 row in flight" if pace.in_flight == 1 else f"{pace.in_flight} rows in flight"
    if pace.ceiling is None:
        return f"{rows} (finding the limit)" if is_found else rows
    if pace.limit > pace.ceiling:
        return f"{rows} (trying {pace.limit}; the provider accepted {pace.ceiling})"
    return f"{rows} (the provider accepts {pace.ceiling})"


def hold_line(hold: Hold) -> str:
    """Why rows wait, until when, and the message of the provider."""
    rows = "1 row waits" if hold.open_rows == 1 else f"{hold.open_rows} rows wait"
    until = f"; next attempt at {hold.until:%Y-%m-%d %H:%M:%S} UTC" if hold.until else " for a person"
    message = "" if hold.message in NO_MESSAGE else f": {presentable(hold.message)}"
    return f"{rows}{until} ({hold.error_type or OTHER_RUN}){message}"


def countdown(hold: Hold, now: datetime) -> str:
    """The wait in a few words, for a line that is written again every second."""
    left = "" if hold.until is None else f" for {duration(max(0.0, (hold.until - now).total_seconds()))}"
    rows = "1 row" if hold.open_rows == 1 else f"{hold.open_rows} rows"
    reason = hold.error_type.replace("_", " ") or OTHER_RUN
    return f"{rows} on hold{left}: {reason} (Ctrl-C keeps the finished rows)"


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < SHOWN_IN_SECONDS_S:
        return f"{seconds:.0f} s"
    if seconds < SHOWN_IN_MINUTES_S:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
