"""Batches to the task runner, a bounded number at a time, until every row has ended."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture

from opencode_tasks.engine.worker import BatchCounts
from opencode_tasks.errors import SetupError
from opencode_tasks.ledger import ConcurrencyState, Ledger, Progress
from opencode_tasks.orchestration.batch_task import run_batch
from opencode_tasks.orchestration.runners import remote_options_for
from opencode_tasks.plan.run_spec import RunSpec
from opencode_tasks.plan.sizing import ROWS_PER_SERVER, Sizes
from opencode_tasks.settings import settings
from opencode_tasks.system.process_identity import is_dead

LOOK_EVERY_S = 1.0
# The progress is summed over all rows of the run: at most this part of the time goes into that.
SHARE_FOR_PROGRESS = 0.05
CRASHES_PER_ROW = 2
FAILURES = 2

OnProgress = Callable[[Progress, ConcurrencyState | None], None]
Ended = tuple[str, State[Any] | None]


def dispatch(
    run_spec: RunSpec, ledger: Ledger, runner: Any, *, sizes: Sizes, on_progress: OnProgress
) -> None:
    """Run the run's open rows, ``sizes.lanes`` batches at a time: more would be more rows in flight.

    Rows that must wait for longer than a batch does are left open; once their gate is closed for
    that long, or the run's budget is reached, no further batch is submitted. Raises SetupError where
    a worker cannot start opencode. After a batch whose worker died others take the rows it left
    open; a row whose worker died twice fails as ``crashed``. On KeyboardInterrupt the rows in flight
    are ended and recorded before it goes on.
    """
    _Dispatch(run_spec, ledger, runner, sizes, on_progress).to_the_end()


class _Dispatch:
    def __init__(
        self, run_spec: RunSpec, ledger: Ledger, runner: Any, sizes: Sizes, on_progress: OnProgress
    ) -> None:
        self.run_spec = run_spec
        self.ledger = ledger
        self.runner = runner
        self.sizes = sizes
        self.on_progress = on_progress
        # Not a Queue, whose lock is left held where Ctrl-C comes right after it was taken.
        self.ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self.running: set[str] = set()
        # Batches that failed or died in a row, and how often each row's worker died.
        self.failures = 0
        self.crashes: Counter[str] = Counter()
        self.tell_at = 0.0
        # A batch found that rows wait for long, or for a person.
        self.resting = False

    def to_the_end(self) -> None:
        try:
            while self._submit() or self.running or self._is_held_elsewhere():
                with suppress(queue.Empty):
                    batch_id, state = self.ended.get(timeout=LOOK_EVERY_S)
                    self.running.discard(batch_id)
                    self._settle(batch_id, state)
                self._tell()
        except BaseException:
            # The workers see this, end what is in flight and record it.
            self.ledger.runs.end(self.run_spec.run_id, status="interrupted", now=datetime.now(UTC))
            self._drain()
            raise

    def _submit(self) -> bool:
        """Submit batches while there are lanes and rows for them; whether any was."""
        room = self.sizes.lanes - len(self.running)
        if room <= 0 or self._is_on_hold():
            return False
        per_lane = min(self.sizes.batch_size, ROWS_PER_SERVER)
        now = datetime.now(UTC)
        # Of rows that wait a little a single batch says so, by its state.
        brief = timedelta(seconds=0 if self.running else self.run_spec.limits.max_inline_wait_s)
        most = per_lane * self.sizes.lanes
        ready = self.ledger.queue.state(self.run_spec.run_id, now=now, until=now + brief, limit=most).ready
        wanted = min(self.sizes.lanes, -(-ready // per_lane)) - len(self.running)
        for _ in range(wanted):
            self._submit_one()
        return wanted > 0

    def _submit_one(self) -> None:
        batch_id = uuid.uuid4().hex[:8]
        with remote_options_for(self.runner, self.run_spec.concurrency):
            # By the runner itself, so that a flow can run its rows on another one than its own.
            parameters = {"run_spec": self.run_spec, "batch_id": batch_id, "most": self.sizes.batch_size}
            future: PrefectFuture[Any] = self.runner.submit(run_batch, parameters=parameters)
        self.running.add(batch_id)
        # In a copy of this context: Prefect's settings, its API's address among them, are in it.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(_wait, future, batch_id, self.ended), daemon=True).start()

    def _is_on_hold(self) -> bool:
        return self.resting or is_on_hold(self.run_spec, self.ledger)

    def _is_held_elsewhere(self) -> bool:
        """Whether rows are open that another run, or a worker that may be dead, holds."""
        if self._is_on_hold():
            return False
        now = datetime.now(UTC)
        owners = self.ledger.queue.owners(self.run_spec.run_id, now=now)
        if any(is_dead(owner) for owner in owners):
            self._submit_one()
        return bool(owners)

    def _settle(self, batch_id: str, state: State[Any] | None) -> None:
        """Take note of how a batch ended; raises what no second try can mend."""
        result = _result_of(state)
        if state is not None and state.is_completed():
            self.failures = 0
            self.resting = isinstance(result, BatchCounts) and result.is_on_hold
            return
        error = result if isinstance(result, BaseException) else None
        if isinstance(error, SetupError):
            raise error
        crashed = self.ledger.attempts.mark_crashed(self.run_spec.run_id, batch_id)
        for row_id in crashed:
            self.crashes[row_id] += 1
            if self.crashes[row_id] >= CRASHES_PER_ROW:
                self._fail(row_id)
        # One that dies or fails before it begins a row would be tried for ever.
        self.failures = 0 if crashed else self.failures + 1
        if self.failures < FAILURES:
            return
        if error is not None and state is not None and not state.is_crashed():
            raise error
        raise SetupError(
            "unknown",
            raw_message="the workers die before they begin a row",
            hint="look at the memory of the nodes and at Ray's logs",
        )

    def _fail(self, row_id: str) -> None:
        message = f"the worker died {CRASHES_PER_ROW} times with this row in flight"
        now = datetime.now(UTC)
        self.ledger.rows.fail(
            self.run_spec.run_id, row_id, error_type="crashed", error_message=message, now=now
        )

    def _tell(self) -> None:
        """Tell the progress, more seldom where it takes long to sum up."""
        if (began := time.monotonic()) < self.tell_at:
            return
        pace = self.ledger.concurrency.get(self.run_spec.gate_id, now=datetime.now(UTC))
        self.on_progress(self.ledger.runs.progress(self.run_spec.run_id), pace)
        took = time.monotonic() - began
        self.tell_at = began + max(LOOK_EVERY_S, took / SHARE_FOR_PROGRESS)

    def _drain(self) -> None:
        deadline = time.monotonic() + settings().grace
        while self.running and (left_s := deadline - time.monotonic()) > 0:
            with suppress(queue.Empty):
                self.running.discard(self.ended.get(timeout=left_s)[0])


def is_on_hold(run_spec: RunSpec, ledger: Ledger) -> bool:
    """Whether no row of the run can be sent for longer than a batch waits."""
    return ledger.budgets.get(run_spec.run_id).refused_pico is not None or _is_closed_for_long(
        run_spec, ledger
    )


def _is_closed_for_long(run_spec: RunSpec, ledger: Ledger) -> bool:
    """Whether the job's gate stays closed for longer than a batch waits, or until a person helps."""
    gate = ledger.gates.get(run_spec.gate_id)
    if gate is None or gate.is_open:
        return False
    if gate.reset_time is None:
        return gate.is_confirmed
    return (gate.reset_time - datetime.now(UTC)).total_seconds() > run_spec.limits.max_inline_wait_s


def _wait(future: PrefectFuture[Any], batch_id: str, ended: queue.SimpleQueue[Ended]) -> None:
    """Wait for one future; ``state`` afterwards, since ``result`` raises where a worker crashed."""
    state: State[Any] | None = None
    with suppress(Exception):
        future.wait()
        state = future.state
        if state.is_crashed():
            _tell_crash(future, state)
    ended.put((batch_id, state))


def _tell_crash(future: PrefectFuture[Any], state: State[Any]) -> None:
    """Tell Prefect of a worker's death; the dead could not, and the task would be Running for ever."""
    with get_client(sync_client=True) as client:
        client.set_task_run_state(future.task_run_id, state, force=True)


def _result_of(state: State[Any] | None) -> Any:
    """What a batch returned or raised; None where that is not known."""
    try:
        return None if state is None else state.result(raise_on_failure=False)
    except Exception as error:  # noqa: BLE001  whatever the runner put there, it is told as the cause
        return error
