"""Dispatcher: submits batches to the executor, a bounded number at a time, until no row is left to send."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from opencode_tasks.domain.next_step import RunState, is_longer_than, next_step
from opencode_tasks.engine.executor import BatchEnd, BatchHandle, Executor
from opencode_tasks.errors import SetupError
from opencode_tasks.ledger import CRASHED, ConcurrencyState, Ledger, Progress
from opencode_tasks.plan.run_spec import RunSpec
from opencode_tasks.plan.sizes import ROWS_PER_SERVER, Sizes
from opencode_tasks.settings import settings
from opencode_tasks.system import Stop
from opencode_tasks.system.process_identity import is_dead, owner_state, pid_of

POLL_INTERVAL_S = 1.0
# Progress is computed over all rows of the run: at most this part of the time is spent on it.
PROGRESS_TIME_SHARE = 0.05
# A row fails if its worker died this many times with the row in flight.
MAX_CRASHES_PER_ROW = 2
# The run ends if this many batches in succession failed or died before their first row.
MAX_FAILURES_IN_SUCCESSION = 2

# Part of the lease time after which a worker that sends heartbeats has sent one, and time between two looks.
SILENT_SHARE = 0.5
LOOK_SHARE = 0.125

OnProgress = Callable[[Progress, ConcurrencyState | None], None]
Ended = tuple[str, BatchEnd]


@dataclass(slots=True)
class Dispatch:
    """Execution of the open rows of a run, ``sizes.batches`` batches at a time.

    Rows that must wait for longer than a batch waits stay open. If the gate is closed for that long,
    or if the budget of the run is used up, no further batch is submitted. If the worker of a batch
    dies, other batches take the rows that it left open; a row whose worker died twice fails as
    ``crashed``.
    """

    run_spec: RunSpec
    ledger: Ledger
    executor: Executor
    sizes: Sizes
    on_progress: OnProgress
    on_warning: Callable[[str], None]
    stop: Stop
    # None for a stop. Not a Queue: its lock stays locked if Ctrl-C arrives right after it was acquired.
    ended: queue.SimpleQueue[Ended | None] = field(default_factory=queue.SimpleQueue[Ended | None])
    running: dict[str, BatchHandle] = field(default_factory=dict[str, BatchHandle])
    failures_in_succession: int = 0
    crashes: Counter[str] = field(default_factory=Counter[str])
    next_progress: float = 0.0
    next_look: float = 0.0
    stopped_owners: set[str] = field(default_factory=set[str])

    def run(self) -> None:
        """Execute the rows. A request of ``stop`` raises KeyboardInterrupt.

        After this, or any other exception, the rows in flight are ended and recorded before it is raised
        again. Raises SetupError if no worker can start opencode.
        """
        try:
            with self.stop.calling(partial(self.ended.put, None)):
                self._run_batches()
        except BaseException:
            # The workers of this driver read it, end what is in flight and record it.
            self.ledger.drivers.stop(self.run_spec.driver_id, now=datetime.now(UTC))
            self._drain()
            raise

    def _run_batches(self) -> None:
        self.stop.check()
        self._keep_rows_of_stopped()
        while self._submit() or self.running or self._has_leased_rows():
            if (ended := self._next_end(POLL_INTERVAL_S)) is not None:
                self._handle_end(*ended)
            self.stop.check()
            self.ledger.check_file()
            self._keep_rows_of_stopped()
            self._report_progress()

    def _next_end(self, timeout_s: float) -> Ended | None:
        """The next batch that ends, which is no longer running; None after ``timeout_s``, or at a stop."""
        with suppress(queue.Empty):
            if (ended := self.ended.get(timeout=timeout_s)) is not None:
                self.running.pop(ended[0])
                return ended
        return None

    def _submit(self) -> bool:
        """Submit batches while there are rows for them. Returns whether any was submitted."""
        if len(self.running) >= self.sizes.batches:
            return False
        rows_per_batch = min(self.sizes.batch_size, ROWS_PER_SERVER)
        state = self._state(limit=rows_per_batch * self.sizes.batches)
        if self._must_stop(state):
            return False
        wanted = min(self.sizes.batches, -(-state.ready // rows_per_batch))
        if not self.running and state.waits_at_most(self.run_spec.limits.max_inline_wait_s):
            # All rows wait for a short time: one batch shows it by its state.
            wanted = max(wanted, 1)
        missing = wanted - len(self.running)
        for _ in range(missing):
            self._submit_batch()
        return missing > 0

    def _submit_batch(self) -> None:
        batch_id = uuid.uuid4().hex[:8]
        handle = self.executor.submit(self.run_spec, batch_id, self.sizes.batch_size)
        self.running[batch_id] = handle

        def wait() -> None:
            self.ended.put((batch_id, handle.wait()))

        threading.Thread(target=wait, name=f"opencode-wait-{batch_id}", daemon=True).start()

    def _state(self, *, limit: int = 1) -> RunState:
        return self.ledger.queue.state(self.run_spec.run_id, self.run_spec.gate_id, limit=limit)

    def _must_stop(self, state: RunState) -> bool:
        limits = self.run_spec.limits
        return is_longer_than(next_step(state, limits), limits.max_inline_wait_s, state.now)

    def _has_leased_rows(self) -> bool:
        """Whether open rows are leased to another driver, or to a worker that may be dead."""
        if self._must_stop(self._state()):
            return False
        owners = self.ledger.queue.owners(self.run_spec.run_id)
        if any(is_dead(owner) for owner in owners):
            # A batch recovers the rows of dead owners.
            self._submit_batch()
        return bool(owners)

    def _keep_rows_of_stopped(self) -> None:
        """Extend the leases of stopped processes of this machine, whose prompts may be in flight."""
        lease_s, run_id = self.run_spec.lease_s, self.run_spec.run_id
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + LOOK_SHARE * lease_s
        silent = self.ledger.queue.silent_owners(run_id, silent_s=SILENT_SHARE * lease_s)
        stopped = {owner for owner in silent if owner_state(owner) == "stopped"}
        for owner in stopped:
            self.ledger.queue.extend(owner, lease_s=lease_s)
        for pid in {pid_of(owner) for owner in stopped - self.stopped_owners}:
            self.on_warning(
                f"process {pid} on this machine is stopped with rows in flight, which wait for it: "
                f"continue it with kill -CONT {pid}, or end it to have them sent again"
            )
        self.stopped_owners = stopped

    def _handle_end(self, batch_id: str, end: BatchEnd) -> None:
        """Count a batch that failed; raises its error if another batch would fail in the same way."""
        if end.result is not None:
            self.failures_in_succession = 0
            return
        if isinstance(end.error, SetupError):
            raise end.error
        crashed_rows = self.ledger.attempts.mark_crashed(self.run_spec.run_id, batch_id)
        for row_id in crashed_rows:
            self.crashes[row_id] += 1
            if self.crashes[row_id] >= MAX_CRASHES_PER_ROW:
                self._fail_crashed(row_id)
        # Batches that end before they start a row would be submitted without end.
        self.failures_in_succession = 0 if crashed_rows else self.failures_in_succession + 1
        if self.failures_in_succession < MAX_FAILURES_IN_SUCCESSION:
            return
        if end.error is not None and not end.is_crashed:
            raise end.error
        raise SetupError(
            "unknown",
            raw_message="the workers die before they start a row",
            hint="look at the memory of the nodes and at Ray's logs",
        )

    def _fail_crashed(self, row_id: str) -> None:
        message = f"the worker died {MAX_CRASHES_PER_ROW} times with this row in flight"
        self.ledger.rows.fail(self.run_spec.run_id, {row_id: (CRASHED, message)}, now=datetime.now(UTC))

    def _report_progress(self) -> None:
        """Report the progress, less often if it takes long to compute."""
        if (start := time.monotonic()) < self.next_progress:
            return
        concurrency = self.ledger.concurrency.get(self.run_spec.gate_id)
        self.on_progress(self.ledger.runs.progress(self.run_spec.run_id), concurrency)
        duration_s = time.monotonic() - start
        self.next_progress = start + max(POLL_INTERVAL_S, duration_s / PROGRESS_TIME_SHARE)

    def _drain(self) -> None:
        """Wait until the running batches have ended, for the grace time of the settings at most."""
        for handle in self.running.values():
            handle.stop_waiting()
        deadline = time.monotonic() + settings().grace
        while self.running and (remaining_s := deadline - time.monotonic()) > 0:
            self._next_end(remaining_s)
