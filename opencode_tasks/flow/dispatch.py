"""Batches to the task runner, a bounded number at a time, until every row has ended."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from prefect.client.schemas.objects import State
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture

from opencode_tasks.errors import SetupError
from opencode_tasks.flow.batch import run_batch
from opencode_tasks.flow.job import Job
from opencode_tasks.flow.runners import remote_options_for
from opencode_tasks.ledger import Ledger, OpenRow, Progress
from opencode_tasks.settings import settings

LOOK_EVERY_S = 0.5
CRASHES_PER_ROW = 2

OnProgress = Callable[[Progress], None]


@dataclass(slots=True)
class _Batch:
    row_ids: Sequence[str]
    crashes: int = 0


def dispatch(
    job: Job,
    ledger: Ledger,
    runner: Any,
    rows: Sequence[OpenRow],
    *,
    batch_size: int,
    lanes: int,
    on_progress: OnProgress,
) -> None:
    """Run every open row, ``lanes`` batches at a time: more would be more rows in flight.

    Raises SetupError where a worker cannot start opencode. A batch whose worker died is submitted
    again with the rows it left open; a row whose worker died twice fails as ``crashed``. On
    KeyboardInterrupt the rows in flight are ended and recorded before it goes on.
    """
    ids = [row.row_id for row in rows]
    waiting = deque(_Batch(ids[at : at + batch_size]) for at in range(0, len(ids), batch_size))
    ended: queue.Queue[tuple[_Batch, State[Any] | None]] = queue.Queue()
    running = 0
    try:
        while waiting or running:
            while waiting and running < lanes:
                _submit(job, runner, waiting.popleft(), ended)
                running += 1
            with suppress(queue.Empty):
                batch, state = ended.get(timeout=LOOK_EVERY_S)
                running -= 1
                if (again := _settle(job, ledger, batch, state)) is not None:
                    waiting.append(again)
            on_progress(ledger.progress(job.run_id))
    except BaseException:
        # The workers see this, end what is in flight and record it.
        ledger.end_run(job.run_id, status="interrupted", now=datetime.now(UTC))
        _drain(ended, running)
        raise


def _submit(
    job: Job, runner: Any, batch: _Batch, ended: queue.Queue[tuple[_Batch, State[Any] | None]]
) -> None:
    with remote_options_for(runner, job.concurrency):
        # Any, since the overloads of submit are not typed to the end.
        future: PrefectFuture[Any] = cast("Any", run_batch).submit(job, list(batch.row_ids))
    threading.Thread(target=_wait, args=(future, batch, ended), daemon=True).start()


def _wait(
    future: PrefectFuture[Any], batch: _Batch, ended: queue.Queue[tuple[_Batch, State[Any] | None]]
) -> None:
    """Wait for one future; ``state`` afterwards, since ``result`` raises where a worker crashed."""
    state: State[Any] | None = None
    with suppress(Exception):
        future.wait()
        state = future.state
        if state.is_crashed():
            _tell_crash(future, state)
    ended.put((batch, state))


def _tell_crash(future: PrefectFuture[Any], state: State[Any]) -> None:
    """Tell Prefect of a worker's death; the dead could not, and the task would be Running for ever."""
    with get_client(sync_client=True) as client:
        client.set_task_run_state(future.task_run_id, state, force=True)


def _settle(job: Job, ledger: Ledger, batch: _Batch, state: State[Any] | None) -> _Batch | None:
    """What to submit again of a batch that ended; None where all its rows have ended."""
    left = [row.row_id for row in ledger.rows_by_id(job.run_id, batch.row_ids)]
    if not left:
        return None
    error = _error_of(state)
    if isinstance(error, SetupError):
        raise error
    crashes = batch.crashes + 1
    if crashes < CRASHES_PER_ROW:
        return _Batch(left, crashes)
    message = f"the worker died {crashes} times with this row in flight: {error or state}"
    for row_id in left:
        ledger.fail_row(
            job.run_id, row_id, error_type="crashed", error_message=message[:500], now=datetime.now(UTC)
        )
    return None


def _error_of(state: State[Any] | None) -> BaseException | None:
    if state is None or state.is_completed():
        return None
    try:
        result: Any = state.result(raise_on_failure=False)
    except Exception as error:  # noqa: BLE001  whatever the runner put there, it is told as the cause
        return error
    return result if isinstance(result, BaseException) else None


def _drain(ended: queue.Queue[tuple[_Batch, State[Any] | None]], running: int) -> None:
    deadline = datetime.now(UTC).timestamp() + settings().grace
    while running and (left_s := deadline - datetime.now(UTC).timestamp()) > 0:
        with suppress(queue.Empty):
            ended.get(timeout=left_s)
            running -= 1
