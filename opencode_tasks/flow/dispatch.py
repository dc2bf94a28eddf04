"""Batches to the task runner, a bounded number at a time, until every row has ended."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture

from opencode_tasks.errors import SetupError
from opencode_tasks.flow.batch import run_batch
from opencode_tasks.flow.job import Job
from opencode_tasks.flow.runners import remote_options_for
from opencode_tasks.ledger import Ledger, OpenRow, PaceNow, Progress
from opencode_tasks.settings import settings

LOOK_EVERY_S = 1.0
CRASHES_PER_ROW = 2

OnProgress = Callable[[Progress, PaceNow | None], None]


@dataclass(slots=True)
class _Batch:
    rows: Sequence[OpenRow]
    failures: int = 0
    crashes: Mapping[str, int] = field(default_factory=dict[str, int])


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

    Rows that must wait for longer than a batch does are left open; once their gate is closed for
    that long, or the run's budget is reached, no further batch is submitted. Raises SetupError where
    a worker cannot start opencode. A batch whose worker died is submitted again with the rows it left
    open; a row whose worker died twice fails as ``crashed``. On KeyboardInterrupt the rows in flight
    are ended and recorded before it goes on.
    """
    waiting = deque(_Batch(rows[at : at + batch_size]) for at in range(0, len(rows), batch_size))
    ended: queue.Queue[tuple[_Batch, State[Any] | None]] = queue.Queue()
    running = 0
    try:
        while waiting or running:
            if waiting and must_rest(job, ledger):
                waiting.clear()
            while waiting and running < lanes:
                _submit(job, runner, waiting.popleft(), ended)
                running += 1
            with suppress(queue.Empty):
                batch, state = ended.get(timeout=LOOK_EVERY_S)
                running -= 1
                waiting.extend(_settle(job, ledger, batch, state))
            on_progress(ledger.progress(job.run_id), ledger.pace(job.gate_id, now=datetime.now(UTC)))
    except BaseException:
        # The workers see this, end what is in flight and record it.
        ledger.end_run(job.run_id, status="interrupted", now=datetime.now(UTC))
        _drain(ended, running)
        raise


def must_rest(job: Job, ledger: Ledger) -> bool:
    """Whether no row of the run can be sent for longer than a batch waits."""
    return ledger.budget(job.run_id).refused_pico is not None or _is_closed_for_long(job, ledger)


def _is_closed_for_long(job: Job, ledger: Ledger) -> bool:
    """Whether the job's gate stays closed for longer than a batch waits, or until a person helps."""
    gate = ledger.gate(job.gate_id)
    if gate is None or gate.is_open:
        return False
    if gate.reset_time is None:
        return gate.is_confirmed
    return (gate.reset_time - datetime.now(UTC)).total_seconds() > job.limits.max_inline_wait_s


def _submit(
    job: Job, runner: Any, batch: _Batch, ended: queue.Queue[tuple[_Batch, State[Any] | None]]
) -> None:
    with remote_options_for(runner, job.concurrency):
        # By the runner itself, so that a flow can run its rows on another one than its own.
        parameters = {"job": job, "row_ids": [row.row_id for row in batch.rows]}
        future: PrefectFuture[Any] = runner.submit(run_batch, parameters=parameters)
    # In a copy of this context: Prefect's settings, its API's address among them, are in it.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(_wait, future, batch, ended), daemon=True).start()


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


def _settle(job: Job, ledger: Ledger, batch: _Batch, state: State[Any] | None) -> list[_Batch]:
    """What to submit again of a batch that ended; raises what no second try can mend."""
    left = ledger.rows_by_id(job.run_id, [row.row_id for row in batch.rows])
    if not left:
        return []
    error = _error_of(state)
    if isinstance(error, SetupError):
        raise error
    if state is not None and state.is_completed():
        if all(row.error_type is not None for row in left):
            return []  # They wait, and say for what.
        raise SetupError(
            "unknown",
            raw_message=f"a batch ended with {len(left)} rows untouched",
            hint="give a ledger that every worker reaches: --ledger postgresql://…",
        )
    if state is not None and not state.is_crashed() and error is not None:
        if batch.failures:
            raise error
        return [_Batch(left, batch.failures + 1, batch.crashes)]
    return _after_crash(job, ledger, batch, left)


def _after_crash(job: Job, ledger: Ledger, batch: _Batch, left: Sequence[OpenRow]) -> list[_Batch]:
    """The rows of a dead worker: those in flight by themselves, and failed the second time."""
    known = {row.row_id: row.attempts for row in batch.rows}
    in_flight = [row for row in left if row.attempts > known[row.row_id]]
    calm = [row for row in left if row.attempts <= known[row.row_id]]
    crashes = dict(batch.crashes)
    again: list[OpenRow] = []
    for row in in_flight:
        crashes[row.row_id] = crashes.get(row.row_id, 0) + 1
        if crashes[row.row_id] < CRASHES_PER_ROW:
            again.append(row)
            continue
        message = f"the worker died {CRASHES_PER_ROW} times with this row in flight"
        now = datetime.now(UTC)
        ledger.fail_row(job.run_id, row.row_id, error_type="crashed", error_message=message, now=now)
    # A worker that dies before it begins a row would be tried for ever.
    failures = batch.failures + (0 if in_flight else 1)
    if failures >= CRASHES_PER_ROW:
        raise SetupError(
            "unknown",
            raw_message="the workers die before they begin a row",
            hint="look at the memory of the nodes and at Ray's logs",
        )
    return [_Batch(rows, failures, crashes) for rows in (again, calm) if rows]


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
