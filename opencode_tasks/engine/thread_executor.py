"""Executor on threads of this process; needs no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from threading import Event, Thread
from typing import TypeVar

from opencode_tasks.engine.executor import BatchEnd, Capacity, local_capacity
from opencode_tasks.engine.worker import BatchResult, RowsWaitError, work_on
from opencode_tasks.plan.run_spec import RunSpec

T = TypeVar("T")


class WorkerLostError(Exception):
    """The process that executed a batch died. Its cause says how."""


class ThreadExecutor:
    """Runs each batch in a daemon thread. The end of the process does not wait for them."""

    is_remote = False

    def capacity(self) -> Capacity:
        """Capacity of this machine."""
        return local_capacity()

    def check(self, ledger_url: str) -> None:
        """Accept every ledger: this process has opened it already."""
        del ledger_url

    def other_machines(self) -> Sequence[str]:
        """None: batches run in this process."""
        return ()

    def on_other_machines(self, function: Callable[[], T]) -> Mapping[str, T]:
        """Nothing: there is no other machine."""
        del function
        return {}

    def submit(self, run_spec: RunSpec, batch_id: str, max_rows: int) -> ThreadBatch:
        """Start the batch in a new thread."""
        return ThreadBatch(partial(work_on, run_spec, batch_id, max_rows), name=f"opencode-batch-{batch_id}")


class ThreadBatch:
    """A batch with a thread of its own, executed again after each short wait.

    ``work`` executes it once, here or elsewhere. It raises RowsWaitError to be executed again later, and
    WorkerLostError if the process that executed it died.
    """

    def __init__(self, work: Callable[[], BatchResult], *, name: str) -> None:
        self._work = work
        self._end = BatchEnd()
        self._is_stopped = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wait(self) -> BatchEnd:
        """Block until the thread has ended."""
        self._thread.join()
        return self._end

    def stop_waiting(self) -> None:
        """End a wait between two executions, and prevent further ones."""
        self._is_stopped.set()

    def _run(self) -> None:
        try:
            self._end = BatchEnd(result=self._work_through_waits())
        except WorkerLostError as lost:
            self._end = BatchEnd(error=lost.__cause__, is_crashed=True)
        except BaseException as error:  # noqa: BLE001  the dispatcher raises it
            self._end = BatchEnd(error=error)

    def _work_through_waits(self) -> BatchResult:
        while True:
            try:
                return self._work()
            except RowsWaitError as waiting:
                wait_s = waiting.hold.remaining_s(datetime.now(UTC)) or 0.0
                if self._is_stopped.wait(wait_s):
                    return BatchResult(ended=0)
