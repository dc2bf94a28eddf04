"""How a batch task waits: Prefect's AwaitingRetry, until the moment that its error names.

Prefect fixes a task's delays when the task is declared. Its engine asks ``retry_condition_fn``
first, which sees the error, and then takes ``retry_delay_seconds[i]``: a list whose item is what
the condition saw gives a delay for each error. A test holds that order against Prefect's engine.
"""

from __future__ import annotations

from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, SupportsIndex, overload

from opencode_tasks.domain.policy import Retry, RetryLimits, decide
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.settings import settings

MAX_WAITS = 1_000_000
MIN_DELAY_S = 0.001

_until: ContextVar[datetime | None] = ContextVar("until", default=None)


class RowsWaitError(Exception):
    """Rows of a task may go on from ``until`` (aware UTC) and nothing else is left to do before."""

    def __init__(self, until: datetime, count: int, error_type: str, message: str) -> None:
        super().__init__(until, count, error_type, message)
        self.until = until
        self.count = count
        self.error_type = error_type
        self.message = message

    def __str__(self) -> str:
        moment = f"{self.until:%Y-%m-%d %H:%M:%S} UTC"
        rows = "1 row waits" if self.count == 1 else f"{self.count} rows wait"
        return f"{rows} until {moment}: {self.error_type}: {self.message[:200]}"


def should_retry_batch(task: Any, task_run: Any, state: Any) -> bool:
    """Whether the task is run again: Prefect's ``retry_condition_fn``, a plain function as it asks."""
    del task, task_run
    error = state.data
    if not isinstance(error, RowsWaitError):
        return False
    _until.set(error.until)
    return True


def should_retry_prompt(task: Any, task_run: Any, state: Any) -> bool:
    """The same for one prompt as one task: what ``policy.decide`` says, within the inline wait."""
    del task
    error = state.data
    if not isinstance(error, OpenCodeError):
        return False
    now = datetime.now(UTC)
    decision = decide(error, max(1, task_run.run_count), now, RetryLimits())
    if not isinstance(decision, Retry):
        return False
    _until.set(decision.at)
    return (decision.at - now).total_seconds() <= settings().max_inline_wait


class RetryDelays(list[float]):
    """Prefect's ``retry_delay_seconds``: the seconds to the moment that ``should_retry_batch`` saw last."""

    def __init__(self) -> None:
        super().__init__([MIN_DELAY_S])

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> float: ...

    @overload
    def __getitem__(self, index: slice, /) -> list[float]: ...

    def __getitem__(self, index: SupportsIndex | slice, /) -> Any:
        """The delay, whatever the index."""
        until = _until.get()
        if until is None or isinstance(index, slice):
            return super().__getitem__(index)
        return max(MIN_DELAY_S, (until - datetime.now(UTC)).total_seconds())
