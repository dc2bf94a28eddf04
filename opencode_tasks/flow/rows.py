"""The rows of one batch: leased, sent a few at a time, put aside while they must wait."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from opencode_tasks.flow.adopting import adopt_left
from opencode_tasks.flow.attempt import After, Ended, Place, Trial, Waits, attempt
from opencode_tasks.flow.block_options import with_secrets
from opencode_tasks.flow.job import Job
from opencode_tasks.flow.owner import is_dead, lease_owner
from opencode_tasks.flow.pacing import Pacer
from opencode_tasks.flow.reserving import Reservations
from opencode_tasks.flow.waiting import RowsWaitError
from opencode_tasks.ledger import (
    BUDGET_REACHED,
    BudgetReachedError,
    Busy,
    Lease,
    LeaseLostError,
    Ledger,
    Taken,
)
from opencode_tasks.node import current_node_id
from opencode_tasks.opencode.backend import Backend
from opencode_tasks.opencode.binary import binary_here
from opencode_tasks.opencode.warm import warm
from opencode_tasks.telemetry import carrier, span

BUSY_LOOK_S = 0.5
LOOK_FOR_STOP_S = 1.0
# How often a row that has no slot looks for one, where nothing is in flight.
BRIEF_WAIT_S = 0.1
# A wait this short is not worth a state of its own.
BRIEF_S = 1.0
# What is in flight when a run is interrupted gets this long to end by itself: it is being paid for.
DRAIN_S = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """What became of a batch's rows; ``left`` are still open.

    They wait until ``waits_until`` (the first of them), or, with ``needs_person``, for a person;
    neither where the run was interrupted.
    """

    ended: int
    left: int
    waits_until: datetime | None = None
    needs_person: bool = False


def work_on(job: Job, row_ids: Sequence[str]) -> BatchCounts:
    """Run the open rows among ``row_ids`` until each has ended or must wait, or the run was stopped.

    Raises RowsWaitError where the first may go on within ``max_inline_wait_s``, and SetupError
    where opencode cannot be started.
    """
    job = with_secrets(job)
    job = replace(job, spec=replace(job.spec, binary=binary_here(job.spec.binary)))
    told = {"run_id": job.run_id, "rows": len(row_ids), "model_ref": job.model_ref}
    with Ledger.open(job.ledger_url) as ledger, span("opencode batch", job.trace, **told):
        first = warm.call(_Batch(job, ledger).run, row_ids)
        left = len(ledger.rows_by_id(job.run_id, row_ids))
    if first is not None and first.until is not None:
        wait_s = (first.until - datetime.now(UTC)).total_seconds()
        if wait_s <= job.limits.max_inline_wait_s:
            raise RowsWaitError(first.until, left, first.error_type, first.words)
    return BatchCounts(
        ended=len(row_ids) - left,
        left=left,
        waits_until=first.until if first else None,
        needs_person=first is not None and first.until is None,
    )


@dataclass(slots=True, eq=False)
class _Line:
    """A row that is not in flight: it may be sent from ``at`` on, None when a person has helped."""

    trial: Trial
    at: datetime | None
    waits: Waits | None = None


class _Batch:
    """The rows of a batch; those in flight, and those that wait their turn or their moment."""

    def __init__(self, job: Job, ledger: Ledger) -> None:
        self.job = job
        self.ledger = ledger
        self.place = Place(
            ledger=ledger,
            job=job,
            owner=lease_owner(),
            node_id=current_node_id(),
            host=socket.gethostname(),
            started=datetime.now(UTC),
            reservations=Reservations(job, ledger),
            pacer=Pacer(job, ledger),
            trace=carrier(),
        )
        self.stopping = False
        # After a closed gate rows go one at a time, until one has passed.
        self.cautious = False
        # Whether a row has ended since the batch began or its gate was closed.
        self.answered = False
        # While only rows in flight are left beside those that wait for long: what these wait for.
        self.rests: Waits | None = None
        self.drained_at: float | None = None
        self.lines: list[_Line] = []
        self.running: dict[asyncio.Task[After], _Line] = {}

    async def run(self, row_ids: Sequence[str]) -> Waits | None:
        """Run the rows; what the first of those that are left waits for, None when none is left."""
        rows = await self.place.db(self.ledger.rows_by_id, self.job.run_id, row_ids)
        if not rows:
            return None
        # Started here, so that a failure to start is the batch's and not each row's.
        await self._backend()
        await self.place.pacer.join()
        keeper = asyncio.create_task(self._keep())
        try:
            if await adopt_left(self.place, [row.row_key for row in rows]):
                rows = await self.place.db(self.ledger.rows_by_id, self.job.run_id, row_ids)
            now = datetime.now(UTC)
            self.lines = [_Line(Trial.of(row), row.waits_until or now) for row in rows]
            return await self._run_all()
        finally:
            keeper.cancel()
            for task in self.running:
                task.cancel()
            await asyncio.gather(*self.running, return_exceptions=True)
            await self.place.pacer.leave()

    async def _run_all(self) -> Waits | None:
        while True:
            self._start()
            if self.running:
                await self._take_in()
                self._end_drain()
                continue
            first = self._first()
            if self.stopping or first is None:
                return None
            wait_s = (first.at - datetime.now(UTC)).total_seconds() if first.at else None
            if wait_s is None or wait_s > BRIEF_S:
                return await self._put_aside(first)
            # A row that may go has no slot yet.
            await asyncio.sleep(max(BRIEF_WAIT_S, wait_s))

    def _start(self) -> None:
        """Send the rows whose moment has come, as far as there are slots."""
        now = datetime.now(UTC)
        most = 1 if self.cautious else self.job.concurrency
        slots = self.place.pacer.slots((line.at for line in self.lines), now, at_most=most)
        while not self.stopping and len(self.running) < slots:
            line = self._next(now)
            if line is None:
                return
            self.lines.remove(line)
            self.place.pacer.started(line.trial.row.row_id, line.trial.row.prompt)
            self.running[asyncio.create_task(self._try(line.trial))] = line

    def _next(self, now: datetime) -> _Line | None:
        """The row to send: the first, or, while none has been answered, the first of the untroubled.

        A row that fails by its own fault would close the gate that it is to try for all the others.
        """
        able = [line for line in self.lines if line.at is not None and line.at <= now]
        if self.answered:
            return able[0] if able else None
        return min(able, key=lambda line: line.trial.tally.used, default=None)

    async def _take_in(self) -> None:
        """Wait for rows in flight, or until another one may be sent."""
        now = datetime.now(UTC)
        moments = [line.at for line in self.lines if line.at is not None and line.at > now]
        limit = min([LOOK_FOR_STOP_S, *((at - now).total_seconds() for at in moments)])
        done, _ = await asyncio.wait(self.running, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            line = self.running.pop(task)
            self.place.pacer.gone(line.trial.row.row_id)
            if task.cancelled():
                if self.rests is not None:
                    self.lines.append(_Line(line.trial, self.rests.until, self.rests))
                continue
            after = task.result()
            if isinstance(after, Ended):
                self.cautious, self.answered = False, True
                continue
            self.lines.append(_Line(line.trial, after.until, after))
            if after.holds_all:
                self._hold(after)

    def _end_drain(self) -> None:
        """End rows in flight that outlast the drain, while all others must wait for long."""
        soon = datetime.now(UTC) + timedelta(seconds=self.job.limits.max_inline_wait_s)
        first = self._first()
        if not self.running or first is None or (first.at is not None and first.at <= soon):
            self.rests, self.drained_at = None, None
            return
        self.rests = first.waits or self.rests or Waits(until=first.at, error_type="waiting", words="")
        self.drained_at = self.drained_at or time.monotonic() + self.job.drain_s
        if time.monotonic() >= self.drained_at:
            for task in self.running:
                task.cancel()

    def _hold(self, waits: Waits) -> None:
        """Put off what a closed gate would refuse anyway."""
        self.cautious, self.answered = True, False
        if waits.error_type == BUDGET_REACHED and waits.until is None:
            for line in self.lines:
                line.at, line.waits = None, line.waits or waits
        if waits.until is None:
            return
        for line in self.lines:
            if line.at is not None and line.at < waits.until:
                line.at, line.waits = waits.until, line.waits or waits

    def _first(self) -> _Line | None:
        timed = [line for line in self.lines if line.at is not None]
        if timed:
            return min(timed, key=lambda line: line.at or self.place.started)
        return self.lines[0] if self.lines else None

    async def _put_aside(self, first: _Line) -> Waits:
        """Show on each row that was held back what it waits for; what the first waits for."""
        found = first.waits or Waits(until=first.at, error_type="waiting", words="rows wait")
        for until in {line.at for line in self.lines}:
            held = [line for line in self.lines if line.at == until]
            reason = next((line.waits for line in held if line.waits), found)
            await self.place.db(
                partial(
                    self.ledger.hold_rows,
                    self.job.run_id,
                    [line.trial.row.row_id for line in held],
                    error_type=reason.error_type,
                    error_message=reason.words,
                    until=until,
                )
            )
        return Waits(until=first.at, error_type=found.error_type, words=found.words)

    async def _keep(self) -> None:
        """Extend the leases, and stop the rows once the run is no longer wanted."""
        last_beat = 0.0
        while True:
            await asyncio.sleep(LOOK_FOR_STOP_S)
            now = datetime.now(UTC)
            # A database that is away for a while must not end the watch over what is in flight.
            with contextlib.suppress(Exception):
                if now.timestamp() - last_beat >= self.job.lease_s / 4:
                    lease_s = self.job.lease_s
                    await self.place.db(
                        partial(self.ledger.heartbeat, self.place.owner, now=now, lease_s=lease_s)
                    )
                    await self.place.db(
                        partial(self.ledger.keep_probe, self.place.owner, now=now, probe_s=lease_s)
                    )
                    last_beat = now.timestamp()
                await self.place.pacer.keep()
                if await self.place.db(self.ledger.run_status, self.job.run_id) == "interrupted":
                    await self._stop()
                    return

    async def _stop(self) -> None:
        """Begin no row more, let those in flight end for a short while, then end them."""
        self.stopping = True
        if self.running:
            await asyncio.wait(list(self.running), timeout=DRAIN_S)
        for task in list(self.running):
            task.cancel()

    async def _try(self, trial: Trial) -> After:
        """One attempt at a row, if its gate is open and it is free."""
        now, row, place = datetime.now(UTC), trial.row, self.place
        held = await place.db(
            partial(
                self.ledger.admit,
                self.job.gate_id,
                run_id=self.job.run_id,
                row_id=row.row_id,
                owner=place.owner,
                now=now,
                probe_s=self.job.lease_s,
                is_troubled=trial.tally.used > 0,
            )
        )
        if held is not None:
            return Waits(
                until=held.until, error_type=held.error_type, words=held.error_message, holds_all=True
            )
        lease = await place.db(
            partial(
                self.ledger.take,
                self.job.run_id,
                row.row_id,
                owner=place.owner,
                now=now,
                lease_s=self.job.lease_s,
            )
        )
        if isinstance(lease, Lease) and (after := await self._attempt(trial, lease)) is not None:
            return after
        await place.db(self.ledger.give_up_probe, self.job.gate_id, place.owner, row.row_id)
        match lease:
            case Taken():
                return Ended()
            case Busy(owner=owner) if is_dead(owner):
                await place.db(self.ledger.break_lease, row.row_key, owner)
                return _soon(now, 0.0)
            case Busy():
                return _soon(now, BUSY_LOOK_S)
            case Lease():
                return _soon(now, 0.0)  # Another has the row; it will be found taken, or free again.

    async def _attempt(self, trial: Trial, lease: Lease) -> After | None:
        """What came of an attempt; None where another has the row by now."""
        place = self.place
        try:
            return await attempt(place, await self._backend(), trial, lease)
        except LeaseLostError:
            return None
        except BudgetReachedError as reached:
            await place.db(self.ledger.release, lease)
            await place.db(self.ledger.give_up_probe, self.job.gate_id, place.owner, trial.row.row_id)
            return _short_of_money(datetime.now(UTC), reached)

    async def _backend(self) -> Backend:
        """The backend, its server started again where it died."""
        return await warm.backend(self.job.spec, self.job.backend, self.job.unpriced)


def _short_of_money(now: datetime, reached: BudgetReachedError) -> Waits:
    """What is in flight may give back some of what is set aside for it; else a person must say."""
    until = now + timedelta(seconds=BUSY_LOOK_S) if reached.in_flight else None
    words = "the run's budget is too little for a further row"
    return Waits(until=until, error_type=BUDGET_REACHED, words=words, holds_all=True)


def _soon(now: datetime, seconds: float) -> Waits:
    return Waits(until=now + timedelta(seconds=seconds), error_type="busy", words="another run has this row")
