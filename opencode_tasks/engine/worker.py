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
from opencode_tasks.engine.attempt import After, Place, attempt, give_up
from opencode_tasks.engine.recovery import adopt_left
from opencode_tasks.errors import SetupError
from opencode_tasks.ledger import (
    BUDGET_REACHED,
    Begun,
    BudgetReachedError,
    LeaseLostError,
    Ledger,
    Outlook,
    Pull,
    Pulled,
)
from opencode_tasks.opencode.binary import binary_here
from opencode_tasks.opencode.server_pool import warm
from opencode_tasks.orchestration.block_options import with_secrets
from opencode_tasks.orchestration.retries import RowsWaitError
from opencode_tasks.outcomes.outcome import over_row_budget
from opencode_tasks.plan.run_spec import Job
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
LONGEST_BATCH_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """How many rows ended in a batch, and, where none may be sent for longer than a batch waits, why.

    They wait until ``waits_until`` (the first of them), or, with ``needs_person``, for a person.
    """

    ended: int
    waits_until: datetime | None = None
    needs_person: bool = False

    @property
    def must_rest(self) -> bool:
        """Whether a further batch would find nothing to send."""
        return self.needs_person or self.waits_until is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """No row may be sent before ``until`` (None: before a person has helped), and why.

    ``for_all`` says that the gate or the budget holds every row, those in flight aside.
    """

    until: datetime | None
    error_type: str
    words: str
    for_all: bool = False


def work_on(job: Job, batch_id: str, most: int) -> BatchCounts:
    """Run up to ``most`` open rows of the run, until no more is ready or the run was stopped.

    Raises RowsWaitError where the first may go on within ``max_inline_wait_s``, and SetupError
    where opencode cannot be started.
    """
    job = with_secrets(job)
    job = replace(job, spec=replace(job.spec, binary=binary_here(job.spec.binary)))
    with (
        Ledger.open(job.ledger_url) as ledger,
        span("opencode batch", job.trace, run_id=job.run_id, model_ref=job.model_ref),
    ):
        batch = _Batch(job, Place(job, ledger, batch_id=batch_id), most)
        rest = warm.call(batch.run)
        left = ledger.open_count(job.run_id) if rest is not None else 0
    if rest is None:
        return BatchCounts(ended=batch.ended)
    if rest.until is not None:
        wait_s = (rest.until - datetime.now(UTC)).total_seconds()
        if wait_s <= job.limits.max_inline_wait_s:
            raise RowsWaitError(rest.until, left, rest.error_type, rest.words)
    return BatchCounts(ended=batch.ended, waits_until=rest.until, needs_person=rest.until is None)


class _Batch:
    """The rows that a worker has in flight, and what it knows of those that it could have next."""

    def __init__(self, job: Job, place: Place, most: int) -> None:
        self.job = job
        self.place = place
        self.most = most
        self.ended = 0
        self.stopping = False
        self.began = time.monotonic()
        # Whether a row has ended since the batch began or its gate was closed.
        self.answered = False
        # Nothing is pulled before this moment of the monotonic clock.
        self.look_at = 0.0
        # What the last pull told, where it had fewer rows than there was room for.
        self.rest: Rest | None = None
        self.is_dry = False
        self.drained_at: float | None = None
        self.running: dict[asyncio.Task[After | None], Begun] = {}
        # Rows whose attempt is begun and whose task has not run yet.
        self.unsent: dict[str, Begun] = {}

    async def run(self) -> Rest | None:
        """Run rows; what those that are left wait for, None where none is left that this batch may take."""
        if await self.place.db(self.place.ledger.run_status, self.job.run_id) is None:
            raise SetupError(
                "unknown",
                raw_message=f"the ledger of this worker has no run {self.job.run_id}",
                hint="give a ledger that every worker reaches: --ledger postgresql://…",
            )
        outlook = await self._look()
        if not outlook.ready and not outlook.leased:
            return self.rest
        lane = warm.take_lane(self.job.spec)
        try:
            # Started here, so that a failure to start is the batch's and not each row's.
            self.backend = await warm.backend(self.job.spec, self.job.backend, self.job.unpriced, lane)
            await self.place.pacer.join()
            return await self._run()
        finally:
            warm.give_lane(self.job.spec, lane)

    async def _run(self) -> Rest | None:
        keeper = asyncio.create_task(self._keep())
        try:
            await adopt_left(self.place)
            return await self._work()
        finally:
            keeper.cancel()
            for task in self.running:
                task.cancel()
            await asyncio.gather(*self.running, return_exceptions=True)
            for begun in list(self.unsent.values()):
                await give_up(self.place, begun, AttemptRecord())
            await self.place.pacer.leave()

    async def _look(self) -> Outlook:
        """What is open in the run; where nothing is ready, what the first row waits for is noted."""
        now = datetime.now(UTC)
        look = partial(self.place.ledger.outlook, self.job.run_id, now=now, until=now, most=1)
        outlook = await self.place.db(look)
        self.is_dry, self.rest = outlook.ready == 0, None
        if self.is_dry and outlook.next_at is not None:
            self.rest = Rest(until=outlook.next_at, error_type=outlook.error_type, words=outlook.words)
        return outlook

    async def _work(self) -> Rest | None:
        while True:
            await self._fill()
            if self.running:
                await self._take_in()
                self._end_drain()
            elif self.stopping or self._left() <= 0:
                return None
            elif self.rest is None:
                if self.is_dry:
                    return None
                # It may have no slot yet, though there is a row to send.
                await asyncio.sleep(max(BRIEF_WAIT_S, self.look_at - time.monotonic()))
            else:
                until = self.rest.until
                wait_s = (until - datetime.now(UTC)).total_seconds() if until else None
                if wait_s is None or wait_s > BRIEF_S:
                    return self.rest
                await asyncio.sleep(max(0.0, wait_s))
                self.look_at = 0.0

    def _left(self) -> int:
        """How many rows more the batch may take."""
        if time.monotonic() - self.began > LONGEST_BATCH_S:
            return 0
        return self.most - self.ended - len(self.running)

    def _room(self) -> int:
        """How many rows more may be in flight."""
        most = self.job.concurrency
        ready = 0 if self.is_dry else min(most, self._left())
        until = self.rest.until if self.rest is not None else None
        slots = self.place.pacer.slots(ready, until=until, now=datetime.now(UTC), at_most=most)
        return min(slots - len(self.running), self._left())

    async def _fill(self) -> None:
        """Pull and send rows, as far as there is room."""
        if self.stopping or time.monotonic() < self.look_at:
            return
        self.look_at = time.monotonic() + LOOK_AGAIN_S
        if self.is_dry or (self.rest is not None and not self.rest.for_all):
            await self._look()
        room = self._room()
        if room <= 0:
            if not self.is_dry:
                self.look_at = time.monotonic() + BRIEF_WAIT_S
            return
        pulled = await self._pull(room)
        for begun in pulled.rows:
            self.unsent[begun.attempt_id] = begun
            self.place.pacer.started(begun.attempt_id, begun.row.prompt)
            self.running[asyncio.create_task(self._try(begun))] = begun
        self.ended += pulled.settled
        self.rest = None
        if len(pulled.rows) == room or pulled.settled:
            self.look_at = 0.0
        else:
            await self._look_around(pulled)

    async def _pull(self, room: int) -> Pulled:
        job, place = self.job, self.place
        cap = job.max_row_cost_pico

        def too_dear(spent_pico: int) -> tuple[str, str]:
            error = over_row_budget(cap or 0, spent_pico, node_id=place.node_id, exit_code=-1)
            return error.error_type, error.raw_message

        folder = self.backend.data_dir(None)
        asked = Pull(
            run_id=job.run_id,
            owner=place.owner,
            gate_id=job.gate_id,
            most=room,
            now=datetime.now(UTC),
            lease_s=job.lease_s,
            node_id=place.node_id,
            host=place.host,
            backend=job.backend,
            data_dir=None if folder is None else str(folder),
            may_cost=place.reservations.for_prompt,
            call_most_pico=place.reservations.further_call(),
            row_most_pico=cap,
            too_dear=too_dear,
            untroubled_first=not self.answered,
            is_idle=not self.running,
        )
        return await place.db(place.ledger.pull, asked)

    async def _look_around(self, pulled: Pulled) -> None:
        """Note why there was less than there is room for."""
        if pulled.held is not None:
            held = pulled.held
            self.answered = False
            self.rest = Rest(
                until=held.until, error_type=held.error_type, words=held.error_message, for_all=True
            )
        elif pulled.short is not None:
            self.rest = _short_of_money(pulled.short)
        elif not pulled.rows:
            await self._look()

    async def _take_in(self) -> None:
        """Wait for rows in flight, or until there may be others to send."""
        limit = LOOK_FOR_STOP_S
        if self._room() > 0:
            limit = min(limit, max(0.01, self.look_at - time.monotonic()))
        done, _ = await asyncio.wait(self.running, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            self.place.pacer.gone(self.running.pop(task).attempt_id)
            after = None if task.cancelled() else task.result()
            if after is After.ENDED:
                self.ended += 1
                self.answered = True
                if not self.is_dry:
                    self.look_at = 0.0
            elif after is After.WAITS:
                self.look_at = 0.0

    def _end_drain(self) -> None:
        """End rows in flight that outlast the drain, while all others must wait for long."""
        soon = datetime.now(UTC) + timedelta(seconds=self.job.limits.max_inline_wait_s)
        rest = self.rest
        if not self.running or rest is None or not rest.for_all or (rest.until and rest.until <= soon):
            self.drained_at = None
            return
        self.drained_at = self.drained_at or time.monotonic() + self.job.drain_s
        if time.monotonic() >= self.drained_at:
            for task in self.running:
                task.cancel()

    async def _keep(self) -> None:
        """Extend the leases, and stop the rows once the run is no longer wanted."""
        ledger, owner, last_beat = self.place.ledger, self.place.owner, 0.0
        while True:
            await asyncio.sleep(LOOK_FOR_STOP_S)
            now, lease_s = datetime.now(UTC), self.job.lease_s
            # A database that is away for a while must not end the watch over what is in flight.
            with contextlib.suppress(Exception):
                if now.timestamp() - last_beat >= lease_s / 4:
                    await self.place.db(partial(ledger.heartbeat, owner, now=now, lease_s=lease_s))
                    await self.place.db(partial(ledger.keep_probe, owner, now=now, probe_s=lease_s))
                    last_beat = now.timestamp()
                await self.place.pacer.keep()
                if await self.place.db(ledger.run_status, self.job.run_id) == "interrupted":
                    await self._stop()
                    return

    async def _stop(self) -> None:
        """Begin no row more, let those in flight end for a short while, then end them."""
        self.stopping = True
        if self.running:
            await asyncio.wait(list(self.running), timeout=DRAIN_S)
        for task in list(self.running):
            task.cancel()

    async def _try(self, begun: Begun) -> After | None:
        """What came of a row; None where another has it by now."""
        self.unsent.pop(begun.attempt_id)
        try:
            return await attempt(self.place, self.backend, begun)
        except (LeaseLostError, SetupError) as error:
            ledger, place = self.place.ledger, self.place
            await place.db(ledger.give_up_probe, self.job.gate_id, place.owner, begun.row.row_id)
            if isinstance(error, SetupError):
                raise
            return None


def _short_of_money(reached: BudgetReachedError) -> Rest:
    """What is in flight may give back some of what is set aside for it; else a person must say."""
    until = datetime.now(UTC) + timedelta(seconds=LOOK_AGAIN_S) if reached.in_flight else None
    words = "the run's budget is too little for a further row"
    return Rest(until=until, error_type=BUDGET_REACHED, words=words, for_all=True)
