"""The two ways to handle a run on hold: the caller waits in this process, or RunPausedError is raised."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from opencode_tasks.domain.hold import Hold
from opencode_tasks.errors import RunPausedError
from opencode_tasks.system import Stop

TICK_S = 1.0

OnHold = Callable[[str, Hold], None]
"""Called with the run id and the hold. Returns when the rows may be sent, or raises."""


def raise_paused(run_id: str, hold: Hold) -> None:
    """Handle a hold by raising RunPausedError."""
    raise RunPausedError(
        run_id, hold.until, hold.error_type, hold.message, hold.open_rows, model_ref=hold.model_ref
    )


def wait_until(time_utc: datetime, on_tick: Callable[[], None], stop: Stop) -> None:
    """Sleep until ``time_utc``. ``on_tick`` is called about every second. ``stop`` ends the sleep."""
    while (remaining_s := (time_utc - datetime.now(UTC)).total_seconds()) > 0:
        on_tick()
        stop.sleep(min(TICK_S, remaining_s))
