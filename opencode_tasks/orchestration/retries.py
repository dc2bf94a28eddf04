"""Waits of a task: Prefect's AwaitingRetry until the time that the error names.

Prefect fixes the delays of a task when it is declared. Its engine calls ``retry_condition_fn`` first,
which sees the error, and then reads ``retry_delay_seconds[i]``: a list whose items depend on the last
error gives each error its own delay. A test checks this order in Prefect's engine.
"""

from __future__ import annotations

from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, SupportsIndex, overload
from uuid import UUID

from opencode_tasks.domain.policy import AttemptCounts, Retry, RetryLimits, decide
from opencode_tasks.engine.worker import RowsWaitError
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.settings import settings

MAX_WAITS = 1_000_000
MIN_DELAY_S = 0.001

_until: ContextVar[datetime | None] = ContextVar("until", default=None)
# Id of the task run, the attempts of its prompt, and the time of its first failure. Prefect counts the
# executions of a task, of which some are no attempt.
_tally: ContextVar[tuple[UUID, AttemptCounts, datetime] | None] = ContextVar("tally", default=None)


def should_retry_batch(task: Any, task_run: Any, state: Any) -> bool:
    """Whether a batch task is executed again. Prefect ignores conditions that are not plain functions."""
    del task, task_run
    error = state.data
    if not isinstance(error, RowsWaitError):
        return False
    _until.set(error.hold.until)
    return True


def should_retry_prompt(task: Any, task_run: Any, state: Any) -> bool:
    """Whether a prompt task is executed again: as ``policy.decide`` says, within the inline wait.

    Attempts are counted as those of a row of a run. Rate limits end after ``max_rate_limit_wait`` in total.
    """
    del task
    error = state.data
    if not isinstance(error, OpenCodeError):
        return False
    now, tally = datetime.now(UTC), _tally.get()
    if tally is None or tally[0] != task_run.id:
        tally = (task_run.id, AttemptCounts(), now)
        _tally.set(tally)
    _, counts, since = tally
    decision = decide(error, counts.count(error), now, RetryLimits())
    if not isinstance(decision, Retry) or not _is_near(decision.at, now, since):
        return False
    _until.set(decision.at)
    return True


def _is_near(at: datetime, now: datetime, since: datetime) -> bool:
    limits = settings()
    waits_s, total_s = (at - now).total_seconds(), (at - since).total_seconds()
    return waits_s <= limits.max_inline_wait and total_s <= limits.max_rate_limit_wait


class RetryDelays(list[float]):
    """Prefect's ``retry_delay_seconds``: seconds until the time that the last retry condition set."""

    def __init__(self) -> None:
        super().__init__([MIN_DELAY_S])

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> float: ...

    @overload
    def __getitem__(self, index: slice, /) -> list[float]: ...

    def __getitem__(self, index: SupportsIndex | slice, /) -> Any:
        """Delay for the last error, whatever the index."""
        until = _until.get()
        if until is None or isinstance(index, slice):
            return super().__getitem__(index)
        return max(MIN_DELAY_S, (until - datetime.now(UTC)).total_seconds())
