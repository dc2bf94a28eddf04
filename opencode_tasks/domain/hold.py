"""Reason why open rows of a run must not be sent now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

MESSAGE_LIMIT = 200
# ``error_type`` of the hold after a pilot, which no failure caused.
PILOT = "pilot"
# What the line of such a hold contains.
PILOT_MARK = f": {PILOT}: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Reason why open rows must not be sent now, and until when.

    Attributes:
        until: Time (aware UTC) from which the first row may be sent; None if a person must act first.
        error_type: Kind of the failure that is the cause, as in the column ``error_type``.
        message: Message of that failure.
        open_rows: Number of open rows of the run; 0 if they were not counted.
        model_ref: Model whose provider is the cause, in a run with several; None for the only one.
        applies_to_all: True if the gate or the budget holds every row; False if each row waits until its own
            time.

    Examples:
        >>> from datetime import UTC, datetime, timedelta
        >>> from opencode_tasks import Hold
        >>> noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
        >>> hold = Hold(until=noon, error_type="rate_limit", message="HTTP 429: slow down", open_rows=3)
        >>> print(hold)
        3 rows wait until 2026-01-01 12:00:00 UTC: rate_limit: HTTP 429: slow down
        >>> hold.remaining_s(noon - timedelta(seconds=90))
        90.0
    """

    until: datetime | None
    error_type: str
    message: str
    open_rows: int = 0
    model_ref: str | None = None
    applies_to_all: bool = False

    def remaining_s(self, now: datetime) -> float | None:
        """Seconds until the first row may be sent, at least 0; None if a person must act."""
        return None if self.until is None else max(0.0, (self.until - now).total_seconds())

    def is_longer_than(self, seconds: float, now: datetime) -> bool:
        """Whether the hold lasts longer than ``seconds`` from ``now``, or until a person acts."""
        remaining_s = self.remaining_s(now)
        return remaining_s is None or remaining_s > seconds

    def __str__(self) -> str:
        """One line: number of rows, until when, and why."""
        rows = "1 row waits" if self.open_rows == 1 else f"{self.open_rows} rows wait"
        when = f"until {self.until:%Y-%m-%d %H:%M:%S} UTC" if self.until else "for a person"
        return f"{rows} {when}: {self.error_type}: {self.message[:MESSAGE_LIMIT]}"
