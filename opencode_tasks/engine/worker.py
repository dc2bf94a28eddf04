"""The rows of one batch: pulled from the ledger as there is room for them, sent, recorded.

A batch has no rows of its own: each worker pulls what is ready, so that none idles while another
has rows left, and a row that must wait goes back to the ledger with its moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from opencode_tasks.domain.records import AttemptRecord
from opencode_tasks.engine.attempt import AttemptEnd, BatchContext, attempt, give_up
from opencode_tasks.engine.recovery import recover_attempts
from opencode_tasks.errors import SetupError
from opencode_tasks.ledger import (
    BUDGET_REACHED,
    BudgetReachedError,
    ClaimedRow,
    ClaimRequest,
    ClaimResult,
    LeaseLostError,
    Ledger,
    QueueState,
)
from opencode_tasks.opencode.binary import binary_here
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.orchestration.block_options import with_secrets
from opencode_tasks.orchestration.retries import RowsWaitError
from opencode_tasks.outcomes.outcome import over_row_budget
from opencode_tasks.plan.run_spec import RunSpec
from opencode_tasks.telemetry import span

# How soon a worker with room looks again for rows that others may have given back.
LOOK_AGAIN_S = 0.5
LOOK_FOR_STOP_S = 1.0
# How often a batch that has no slot looks for one, where nothing of it is in flight.
BRIEF_WAIT_S = 0.1
# A wait this short is not worth a state of its own.
BRIEF_S = 1.0
# What is in flight when a run is interrupted gets this long to end by itself: it is being paid for.
DRAIN_S = 4.0
# A batch pulls no more rows after this long: Prefect sees a run go on by its batches.
MAX_BATCH_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """How many rows ended in a batch, and, where none may be sent for longer than a batch waits, why.

    They wait until ``waits_until`` (the first of them), or, with ``needs_person``, for a person.
    """

    ended: int
    waits_until: datetime | None = None
    needs_person: bool = False

    @property
    def is_on_hold(self) -> bool:
        """Whether a further batch would find nothing to send."""
        return self.needs_person or self.waits_until is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """No row may be sent before ``until`` (None: before a person has helped), and why.

    ``for_all`` says that the gate or the budget holds every row, those in flight aside.
    """

    until: datetime | None
    error_type: str
    message: str
    for_all: bool = False


def work_on(run_spec: RunSpec, batch_id: str, most: int) -> BatchCounts:
    """Run up to ``most`` open rows of the run, until no more is ready or the run was stopped.

    Raises RowsWaitError where the first may go on within ``max_inline_wait_s``, and SetupError
    where opencode cannot be started.
    """
    run_spec = with_secrets(run_spec)
    run_spec = replace(run_spec, spec=replace(run_spec.spec, binary=binary_here(run_spec.spec.binary)))
    with (
        Ledger.open(run_spec.ledger_url) as ledger,
        span("opencode batch", run_spec.trace, run_id=run_spec.run_id, model_ref=run_spec.model_ref),
    ):
        batch = _Batch(run_spec, BatchContext(run_spec, ledger, batch_id=batch_id), most)
        hold = server_pool.call(batch.run)
        left = ledger.rows.count_open(run_spec.run_id) if hold is not None else 0
    if hold is None:
        return BatchCounts(ended=batch.ended)
    if hold.until is not None:
        wait_s = (hold.until - datetime.now(UTC)).total_seconds()
        if wait_s <= run_spec.limits.max_inline_wait_s:
            raise RowsWaitError(hold.until, left, hold.error_type, hold.message)
    return BatchCounts(ended=batch.ended, waits_until=hold.until, needs_person=hold.until is None)


class _Batch:
    """The rows that a worker has in flight, and what it knows of those that it could have next."""

    def __init__(self, run_spec: RunSpec, context: BatchContext, most: int) -> None:
        self.run_spec = run_spec
        self.context = context
        self.most = most
        self.ended = 0
        self.stopping = False
        self.began = time.monotonic()
        # Whether a row has ended since the batch began or its gate was closed.
        self.answered = False
        # Nothing is pulled before this moment of the monotonic clock.
        self.look_at = 0.0
        # What the last pull told, where it had fewer rows than there was room for.
        self.hold: Hold | None = None
        self.is_dry = False
        self.drained_at: float | None = None
        self.running: dict[asyncio.Task[AttemptEnd | None], ClaimedRow] = {}
        # Rows whose attempt is begun and whose task has not run yet.
        self.unsent: dict[str, ClaimedRow] = {}

    async def run(self) -> Hold | None:
        """Run rows; what those that are left wait for, None where none is left that this batch may take."""
        if await self.context.db(self.context.ledger.runs.status, self.run_spec.run_id) is None:
            raise SetupError(
                "unknown",
                raw_message=f"the ledger of this worker has no run {self.run_spec.run_id}",
                hint="give a ledger that every worker reaches: --ledger postgresql://…",
            )
        queue_state = await self._look()
        if not queue_state.ready and not queue_state.leased:
            return self.hold
        lane = server_pool.take_lane(self.run_spec.spec)
        try:
            # Started here, so that a failure to start is the batch's and not each row's.
            self.backend = await server_pool.backend(
                self.run_spec.spec, self.run_spec.backend, self.run_spec.unpriced, lane
            )
            await self.context.limiter.join()
            return await self._run()
        finally:
            server_pool.give_lane(self.run_spec.spec, lane)

    async def _run(self) -> Hold | None:
        keeper = asyncio.create_task(self._keep())
        try:
            await recover_attempts(self.context)
            return await self._work()
        finally:
            keeper.cancel()
            for task in self.running:
                task.cancel()
            await asyncio.gather(*self.running, return_exceptions=True)
            for claimed in list(self.unsent.values()):
                await give_up(self.context, claimed, AttemptRecord())
            await self.context.limiter.leave()

    async def _look(self) -> QueueState:
        """What is open in the run; where nothing is ready, what the first row waits for is noted."""
        now = datetime.now(UTC)
        look = partial(self.context.ledger.queue.state, self.run_spec.run_id, now=now, until=now, limit=1)
        queue_state = await self.context.db(look)
        self.is_dry, self.hold = queue_state.ready == 0, None
        if self.is_dry and queue_state.next_at is not None:
            self.hold = Hold(
                until=queue_state.next_at, error_type=queue_state.error_type, message=queue_state.message
            )
        return queue_state

    async def _work(self) -> Hold | None:
        while True:
            await self._fill()
            if self.running:
                await self._take_in()
                self._end_drain()
            elif self.stopping or self._left() <= 0:
                return None
            elif self.hold is None:
                if self.is_dry:
                    return None
                # It may have no slot yet, though there is a row to send.
                await asyncio.sleep(max(BRIEF_WAIT_S, self.look_at - time.monotonic()))
            else:
                until = self.hold.until
                wait_s = (until - datetime.now(UTC)).total_seconds() if until else None
                if wait_s is None or wait_s > BRIEF_S:
                    return self.hold
                await asyncio.sleep(max(0.0, wait_s))
                self.look_at = 0.0

    def _left(self) -> int:
        """How many rows more the batch may take."""
        if time.monotonic() - self.began > MAX_BATCH_S:
            return 0
        return self.most - self.ended - len(self.running)

    def _room(self) -> int:
        """How many rows more may be in flight."""
        most = self.run_spec.concurrency
        ready = 0 if self.is_dry else min(most, self._left())
        until = self.hold.until if self.hold is not None else None
        slots = self.context.limiter.slots(ready, until=until, now=datetime.now(UTC), at_most=most)
        return min(slots - len(self.running), self._left())

    async def _fill(self) -> None:
        """Pull and send rows, as far as there is room."""
        if self.stopping or time.monotonic() < self.look_at:
            return
        self.look_at = time.monotonic() + LOOK_AGAIN_S
        if self.is_dry or (self.hold is not None and not self.hold.for_all):
            await self._look()
        room = self._room()
        if room <= 0:
            if not self.is_dry:
                self.look_at = time.monotonic() + BRIEF_WAIT_S
            return
        claim_result = await self._claim_rows(room)
        for claimed in claim_result.rows:
            self.unsent[claimed.attempt_id] = claimed
            self.context.limiter.started(claimed.attempt_id, claimed.row.prompt)
            self.running[asyncio.create_task(self._try(claimed))] = claimed
        self.ended += claim_result.finished
        self.hold = None
        if len(claim_result.rows) == room or claim_result.finished:
            self.look_at = 0.0
        else:
            await self._look_around(claim_result)

    async def _claim_rows(self, room: int) -> ClaimResult:
        run_spec, context = self.run_spec, self.context
        cap = run_spec.max_row_cost_pico

        def over_row_cap(spent_pico: int) -> tuple[str, str]:
            error = over_row_budget(cap or 0, spent_pico, node_id=context.node_id, exit_code=-1)
            return error.error_type, error.raw_message

        folder = self.backend.data_dir(None)
        asked = ClaimRequest(
            run_id=run_spec.run_id,
            owner=context.owner,
            gate_id=run_spec.gate_id,
            limit=room,
            now=datetime.now(UTC),
            lease_s=run_spec.lease_s,
            node_id=context.node_id,
            host=context.host,
            backend=run_spec.backend,
            data_dir=None if folder is None else str(folder),
            max_cost_of=context.reservations.for_prompt,
            max_call_pico=context.reservations.further_call(),
            max_row_pico=cap,
            row_cost_error=over_row_cap,
            prefer_untried=not self.answered,
            is_idle=not self.running,
        )
        return await context.db(context.ledger.queue.claim, asked)

    async def _look_around(self, claim_result: ClaimResult) -> None:
        """Note why there was less than there is room for."""
        if claim_result.gate_hold is not None:
            held = claim_result.gate_hold
            self.answered = False
            self.hold = Hold(
                until=held.until, error_type=held.error_type, message=held.error_message, for_all=True
            )
        elif claim_result.budget_error is not None:
            self.hold = _short_of_money(claim_result.budget_error)
        elif not claim_result.rows:
            await self._look()

    async def _take_in(self) -> None:
        """Wait for rows in flight, or until there may be others to send."""
        limit = LOOK_FOR_STOP_S
        if self._room() > 0:
            limit = min(limit, max(0.01, self.look_at - time.monotonic()))
        done, _ = await asyncio.wait(self.running, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            self.context.limiter.gone(self.running.pop(task).attempt_id)
            end = None if task.cancelled() else task.result()
            if end is AttemptEnd.ENDED:
                self.ended += 1
                self.answered = True
                if not self.is_dry:
                    self.look_at = 0.0
            elif end is AttemptEnd.WAITS:
                self.look_at = 0.0

    def _end_drain(self) -> None:
        """End rows in flight that outlast the drain, while all others must wait for long."""
        soon = datetime.now(UTC) + timedelta(seconds=self.run_spec.limits.max_inline_wait_s)
        hold = self.hold
        if not self.running or hold is None or not hold.for_all or (hold.until and hold.until <= soon):
            self.drained_at = None
            return
        self.drained_at = self.drained_at or time.monotonic() + self.run_spec.drain_s
        if time.monotonic() >= self.drained_at:
            for task in self.running:
                task.cancel()

    async def _keep(self) -> None:
        """Extend the leases, and stop the rows once the run is no longer wanted."""
        ledger, owner, last_beat = self.context.ledger, self.context.owner, 0.0
        while True:
            await asyncio.sleep(LOOK_FOR_STOP_S)
            now, lease_s = datetime.now(UTC), self.run_spec.lease_s
            # A database that is away for a while must not end the watch over what is in flight.
            with contextlib.suppress(Exception):
                if now.timestamp() - last_beat >= lease_s / 4:
                    await self.context.db(partial(ledger.queue.heartbeat, owner, now=now, lease_s=lease_s))
                    await self.context.db(partial(ledger.gates.extend_probe, owner, now=now, probe_s=lease_s))
                    last_beat = now.timestamp()
                await self.context.limiter.keep()
                if await self.context.db(ledger.runs.status, self.run_spec.run_id) == "interrupted":
                    await self._stop()
                    return

    async def _stop(self) -> None:
        """Begin no row more, let those in flight end for a short while, then end them."""
        self.stopping = True
        if self.running:
            await asyncio.wait(list(self.running), timeout=DRAIN_S)
        for task in list(self.running):
            task.cancel()

    async def _try(self, claimed: ClaimedRow) -> AttemptEnd | None:
        """What came of a row; None where another has it by now."""
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


def _short_of_money(reached: BudgetReachedError) -> Hold:
    """What is in flight may give back some of what is set aside for it; else a person must say."""
    until = datetime.now(UTC) + timedelta(seconds=LOOK_AGAIN_S) if reached.in_flight else None
    message = "the run's budget is too little for a further row"
    return Hold(until=until, error_type=BUDGET_REACHED, message=message, for_all=True)
