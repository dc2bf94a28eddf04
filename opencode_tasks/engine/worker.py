"""Worker: claims rows of a run from the ledger, sends them, and records their outcomes.

A batch is a share of the work, not a list of rows: each worker claims the rows that are ready when it
has room, so that no worker idles while another one has rows left. A row that must wait goes back to
the ledger with the time from which it may be sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from opencode_tasks.domain.hold import Hold
from opencode_tasks.domain.next_step import NextStep, Run, Wait, hold_of, is_longer_than, next_step
from opencode_tasks.domain.records import AttemptRecord
from opencode_tasks.engine.attempt import AttemptEnd, BatchContext, attempt, give_up
from opencode_tasks.engine.config_check import ConfigFiles, check_config
from opencode_tasks.engine.recovery import forget_recorded, recover_attempts
from opencode_tasks.errors import SetupError
from opencode_tasks.ledger import (
    ClaimedRow,
    ClaimRequest,
    ClaimResult,
    LeaseLostError,
    Ledger,
)
from opencode_tasks.opencode.binary import binary_here
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.outcomes.outcome import over_row_budget
from opencode_tasks.plan.run_spec import RunSpec
from opencode_tasks.system.process_identity import at_work
from opencode_tasks.telemetry import span

# Interval between two looks for rows that other workers may have released.
POLL_INTERVAL_S = 0.5
# The same while nothing is in flight and rows are ready, but no slot is free.
SHORT_POLL_INTERVAL_S = 0.1
STATUS_INTERVAL_S = 1.0
# A wait this short happens inside the batch, without a separate state.
SHORT_WAIT_S = 1.0
# Time for rows in flight to end after a stop: they are already being paid for.
STOP_DRAIN_S = 4.0
# A batch claims no more rows after this time, so that Prefect shows the progress of a run by its batches.
MAX_BATCH_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """Result of a batch: the number of rows that ended in it."""

    ended: int


class RowsWaitError(Exception):
    """The remaining rows wait for a time that is near: execute the batch again at ``hold.until``."""

    def __init__(self, hold: Hold) -> None:
        super().__init__(hold)
        self.hold = hold

    def __str__(self) -> str:
        """Number of rows, time, and cause."""
        return str(self.hold)


def work_on(run_spec: RunSpec, batch_id: str, max_rows: int) -> BatchResult:
    """Execute up to ``max_rows`` open rows of the run, until none is ready or the driver is stopped.

    Raises RowsWaitError if the next row may be sent within ``max_inline_wait_s``, and SetupError if
    opencode cannot be started or the ledger does not hold the run.
    """
    run_spec = replace(run_spec, spec=replace(run_spec.spec, binary=binary_here(run_spec.spec.binary)))
    with (
        Ledger.open(run_spec.ledger_url) as ledger,
        span("opencode batch", run_spec.trace, run_id=run_spec.run_id, model_ref=run_spec.model_ref),
    ):
        context = BatchContext(run_spec, ledger, batch_id=batch_id)
        batch = _Batch(run_spec, context, max_rows)
        with at_work(context.owner):
            server_pool.call(batch.run)
        step = batch.step
    limits = run_spec.limits
    if isinstance(step, Wait) and not is_longer_than(step, limits.max_inline_wait_s, datetime.now(UTC)):
        raise RowsWaitError(step.hold)
    return BatchResult(ended=batch.ended)


class _Batch:
    """The rows that a worker has in flight, and what it knows about the rows that it may claim next."""

    def __init__(self, run_spec: RunSpec, context: BatchContext, max_rows: int) -> None:
        self.run_spec = run_spec
        self.context = context
        self.max_rows = max_rows
        self.ended = 0
        self.is_stopping = False
        self.started = time.monotonic()
        # Whether a row has ended since the batch started or since its gate closed.
        self.has_answer = False
        # Time of the monotonic clock before which no row is claimed.
        self.next_claim = 0.0
        # What the rows that this batch does not have in flight wait for.
        self.step: NextStep = Run()
        self.is_queue_empty = False
        # Time until which the first row waits; None without one.
        self.next_ready: datetime | None = None
        self.drain_deadline: float | None = None
        self.in_flight: dict[asyncio.Task[AttemptEnd | None], ClaimedRow] = {}
        self.config_files = ConfigFiles(run_spec)
        # Rows whose attempt is written and whose task has not started.
        self.unsent: dict[str, ClaimedRow] = {}

    async def run(self) -> None:
        """Execute rows until none is left for this batch; ``step`` is then what the others wait for."""
        if await self.context.db(self.context.ledger.runs.status, self.run_spec.run_id) is None:
            raise SetupError(
                "unknown",
                raw_message=f"the ledger of this worker has no run {self.run_spec.run_id}",
                hint="use a ledger that every worker reaches: --ledger postgresql://…",
            )
        has_leased = await self._read_state()
        if self.is_queue_empty and not has_leased:
            return
        run_spec = self.run_spec
        # Started here, so that a failed start is a failure of the batch and not of each row.
        async with server_pool.use(
            run_spec.spec, run_spec.backend, run_spec.unpriced, servers=run_spec.servers
        ) as self.backend:
            await check_config(run_spec, self.context.node_id)
            await self.context.limiter.join()
            await self._run()

    async def _run(self) -> None:
        watch = asyncio.create_task(self._watch())
        try:
            await recover_attempts(self.context)
            await self._work()
            await self.context.db(forget_recorded, self.context)
        finally:
            watch.cancel()
            for task in self.in_flight:
                task.cancel()
            await asyncio.gather(*self.in_flight, return_exceptions=True)
            for claimed in list(self.unsent.values()):
                await give_up(self.context, claimed, AttemptRecord())
            await self.context.limiter.leave()

    async def _read_state(self) -> bool:
        """Read the state of the run. Returns whether rows are leased, to this batch or to others."""
        run_spec = self.run_spec
        state = await self.context.db(self.context.ledger.queue.state, run_spec.run_id, run_spec.gate_id)
        # Rows in flight elsewhere are no work for this batch.
        self.step = next_step(replace(state, has_leased=bool(self.in_flight)), run_spec.limits)
        self.is_queue_empty = state.ready == 0
        self.next_ready = state.first_wait.until if state.first_wait is not None else None
        return state.has_leased

    @property
    def hold(self) -> Hold | None:
        """Reason why the batch may send no row now; None if it may, or if there is none."""
        return hold_of(self.step)

    async def _work(self) -> None:
        while True:
            await self._fill()
            if self.in_flight:
                await self._collect()
                self._end_drain()
            elif self.is_stopping or self._rows_left() <= 0:
                self.step = Run()
                return
            elif self.hold is None:
                if self.is_queue_empty:
                    return
                # A row is ready, but there may be no slot yet.
                await asyncio.sleep(max(SHORT_POLL_INTERVAL_S, self.next_claim - time.monotonic()))
            else:
                now = datetime.now(UTC)
                if self.hold.is_longer_than(SHORT_WAIT_S, now):
                    return
                await asyncio.sleep(self.hold.remaining_s(now) or 0.0)
                self.next_claim = 0.0

    def _rows_left(self) -> int:
        """Number of rows that the batch may still claim."""
        if time.monotonic() - self.started > MAX_BATCH_S:
            return 0
        return self.max_rows - self.ended - len(self.in_flight)

    def _free_slots(self) -> int:
        """Number of rows that may be added to those in flight."""
        ready = 0 if self.is_queue_empty else min(self.run_spec.concurrency, self._rows_left())
        slots = self.context.limiter.slots(ready, until=self.next_ready, now=datetime.now(UTC))
        return min(slots - len(self.in_flight), self._rows_left())

    async def _fill(self) -> None:
        """Claim and send rows while there are free slots."""
        if self.is_stopping or time.monotonic() < self.next_claim:
            return
        self.next_claim = time.monotonic() + POLL_INTERVAL_S
        if self.is_queue_empty or self.hold is not None:
            await self._read_state()
        if self.hold is not None:
            self.has_answer = self.has_answer and not self.hold.applies_to_all
            return
        free_slots = self._free_slots()
        if free_slots <= 0:
            if not self.is_queue_empty:
                self.next_claim = time.monotonic() + SHORT_POLL_INTERVAL_S
            return
        if await self.config_files.have_changed():
            # The next batch looks whether the change decides other answers.
            self.is_stopping = True
            return
        claim_result = await self._claim_rows(free_slots)
        for claimed in claim_result.rows:
            self.unsent[claimed.attempt_id] = claimed
            self.context.limiter.add(claimed.attempt_id, claimed.row.prompt)
            self.in_flight[asyncio.create_task(self._try(claimed))] = claimed
        self.ended += claim_result.finished
        if len(claim_result.rows) == free_slots or claim_result.finished:
            self.next_claim = 0.0
        elif not claim_result.rows:
            await self._read_state()

    async def _claim_rows(self, free_slots: int) -> ClaimResult:
        run_spec, context = self.run_spec, self.context
        row_cap_pico = run_spec.max_row_cost_pico

        def over_row_cap(spent_pico: int) -> tuple[str, str]:
            error = over_row_budget(row_cap_pico or 0, spent_pico, node_id=context.node_id, exit_code=-1)
            return error.error_type, error.raw_message

        data_dir = self.backend.data_dir(None)
        request = ClaimRequest(
            run_id=run_spec.run_id,
            owner=context.owner,
            gate_id=run_spec.gate_id,
            limit=free_slots,
            lease_s=run_spec.lease_s,
            node_id=context.node_id,
            host=context.host,
            backend=run_spec.backend,
            data_dir=None if data_dir is None else str(data_dir),
            max_cost_of=context.reservations.for_row,
            max_call_pico=context.reservations.further_call(),
            max_row_pico=row_cap_pico,
            row_cost_error=over_row_cap,
            prefer_untried=not self.has_answer,
            is_idle=not self.in_flight,
        )
        return await context.db(context.ledger.queue.claim, request)

    async def _collect(self) -> None:
        """Wait until rows in flight end, or until other rows may be claimed."""
        timeout_s = STATUS_INTERVAL_S
        if self._free_slots() > 0:
            timeout_s = min(timeout_s, max(0.01, self.next_claim - time.monotonic()))
        done, _ = await asyncio.wait(self.in_flight, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            self.context.limiter.remove(self.in_flight.pop(task).attempt_id)
            end = None if task.cancelled() else task.result()
            if end is AttemptEnd.ENDED:
                self.ended += 1
                self.has_answer = True
                if not self.is_queue_empty:
                    self.next_claim = 0.0
            elif end is AttemptEnd.WAITS:
                self.next_claim = 0.0

    def _end_drain(self) -> None:
        """Cancel rows in flight that outlast the drain time while all other rows must wait for long."""
        hold, max_inline_wait_s = self.hold, self.run_spec.limits.max_inline_wait_s
        must_drain = (
            hold is not None
            and hold.applies_to_all
            and hold.is_longer_than(max_inline_wait_s, datetime.now(UTC))
        )
        if not self.in_flight or not must_drain:
            self.drain_deadline = None
            return
        self.drain_deadline = self.drain_deadline or time.monotonic() + self.run_spec.drain_s
        if time.monotonic() >= self.drain_deadline:
            for task in self.in_flight:
                task.cancel()

    async def _watch(self) -> None:
        """Extend the leases of the batch, and stop its rows when the driver is stopped."""
        ledger, owner, last_heartbeat = self.context.ledger, self.context.owner, 0.0
        while True:
            await asyncio.sleep(STATUS_INTERVAL_S)
            now_s, lease_s = time.monotonic(), self.run_spec.lease_s
            # If the database is not reachable for a while, the rows in flight must still be watched.
            with contextlib.suppress(Exception):
                if now_s - last_heartbeat >= lease_s / 4:
                    await self.context.db(partial(ledger.queue.heartbeat, owner, lease_s=lease_s))
                    await self.context.db(partial(ledger.gates.extend_probe, owner, probe_s=lease_s))
                    last_heartbeat = now_s
                await self.context.limiter.refresh()
                if await self.context.db(ledger.drivers.is_stopped, self.run_spec.driver_id):
                    await self._stop()
                    return

    async def _stop(self) -> None:
        """Claim no further row, give the rows in flight a short time to end, then cancel them."""
        self.is_stopping = True
        if self.in_flight:
            await asyncio.wait(list(self.in_flight), timeout=STOP_DRAIN_S)
        for task in list(self.in_flight):
            task.cancel()

    async def _try(self, claimed: ClaimedRow) -> AttemptEnd | None:
        """Send a row. Returns None if another worker has taken it over."""
        self.unsent.pop(claimed.attempt_id)
        try:
            return await attempt(self.context, self.backend, claimed)
        except (LeaseLostError, SetupError) as error:
            ledger, context = self.context.ledger, self.context
            await context.db(
                ledger.gates.release_probe, self.run_spec.gate_id, context.owner, claimed.row.row_id
            )
            if isinstance(error, SetupError):
                raise
            return None
