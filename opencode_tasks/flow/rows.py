"""The rows of one batch, each through its attempts, leased and recorded in the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import psutil

from opencode_tasks.asking import ask
from opencode_tasks.errors import OpenCodeError, RateLimitError, SetupError, UnknownOpenCodeError
from opencode_tasks.flow.job import Job
from opencode_tasks.ledger import Busy, Lease, LeaseLostError, Ledger, OpenRow, Taken
from opencode_tasks.node import current_node_id
from opencode_tasks.opencode.backend import Backend
from opencode_tasks.opencode.warm import warm
from opencode_tasks.policy import Retry, Tally, decide
from opencode_tasks.records import Answer, AttemptRecord
from opencode_tasks.trace import append_trace, render_trace

T = TypeVar("T")
BUSY_LOOK_S = 0.5
# The least wait after a rate limit, doubled with each one of a row.
LIMIT_FLOOR_S = 1.0
LIMIT_FLOOR_MAX_S = 60.0
LOOK_FOR_STOP_S = 1.0
# What is in flight when a run is interrupted gets this long to end by itself: it is being paid for.
DRAIN_S = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """What became of a batch's rows; ``left`` are still open (the run was interrupted)."""

    ended: int
    left: int


def work_on(job: Job, row_ids: Sequence[str]) -> BatchCounts:
    """Run the open rows among ``row_ids`` and return once each has ended or the run was stopped.

    Raises SetupError where opencode cannot be started.
    """
    with Ledger.open(job.ledger_url) as ledger:
        warm.call(_Batch(job, ledger).run, row_ids)
        left = len(ledger.rows_by_id(job.run_id, row_ids))
    return BatchCounts(ended=len(row_ids) - left, left=left)


class _Batch:
    """The rows in flight of one batch; ``owner`` names this batch and its process in leases."""

    def __init__(self, job: Job, ledger: Ledger) -> None:
        self.job = job
        self.ledger = ledger
        self.owner = lease_owner()
        self.node_id = current_node_id()
        self.host = socket.gethostname()
        self.started = datetime.now(UTC)
        self.stopping = False
        self.waiting: set[asyncio.Task[None]] = set()

    async def run(self, row_ids: Sequence[str]) -> None:
        rows = await self._db(self.ledger.rows_by_id, self.job.run_id, row_ids)
        if not rows:
            return
        # Started here, so that a failure to start is the batch's and not each row's.
        await self._backend()
        slots = asyncio.Semaphore(self.job.concurrency)
        tasks = [asyncio.create_task(self._row(row, slots)) for row in rows]
        keeper = asyncio.create_task(self._keep(tasks))
        try:
            results = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            keeper.cancel()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _keep(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Extend the leases, and stop the rows once the run is no longer wanted."""
        last_beat = 0.0
        while True:
            await asyncio.sleep(LOOK_FOR_STOP_S)
            now = datetime.now(UTC)
            # A database that is away for a while must not end the watch over what is in flight.
            with contextlib.suppress(Exception):
                if now.timestamp() - last_beat >= self.job.lease_s / 4:
                    beat = partial(self.ledger.heartbeat, self.owner, now=now, lease_s=self.job.lease_s)
                    await self._db(beat)
                    last_beat = now.timestamp()
                if await self._db(self.ledger.run_status, self.job.run_id) == "interrupted":
                    await self._stop(tasks)
                    return

    async def _stop(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Begin no row more, let those in flight end for a short while, then end them."""
        self.stopping = True
        for task in self.waiting:
            task.cancel()
        await asyncio.wait(tasks, timeout=DRAIN_S)
        for task in tasks:
            task.cancel()

    async def _row(self, row: OpenRow, slots: asyncio.Semaphore) -> None:
        trial = _Trial(row=row, tally=Tally(used=row.attempts))
        me = asyncio.current_task()
        assert me is not None
        while True:
            self.waiting.add(me)
            async with slots:
                self.waiting.discard(me)
                if self.stopping:
                    return
                wait_until = await self._try(trial)
            if wait_until is None:
                return
            self.waiting.add(me)
            await asyncio.sleep(max(0.0, (wait_until - datetime.now(UTC)).total_seconds()))

    async def _try(self, trial: _Trial) -> datetime | None:
        """One attempt at a row, if it is free; the moment to come back, None once it has ended."""
        now, row = datetime.now(UTC), trial.row
        lease = await self._db(
            lambda: self.ledger.take(
                self.job.run_id, row.row_id, owner=self.owner, now=now, lease_s=self.job.lease_s
            )
        )
        match lease:
            case Taken():
                return None
            case Busy(owner=owner):
                if is_dead(owner):
                    await self._db(self.ledger.break_lease, row.row_key, owner)
                    return now
                return datetime.fromtimestamp(now.timestamp() + BUSY_LOOK_S, UTC)
            case Lease():
                try:
                    return await self._attempt(trial, lease)
                except LeaseLostError:
                    return now  # Another has the row; it will be found taken, or free again.

    async def _attempt(self, trial: _Trial, lease: Lease) -> datetime | None:
        row, job = trial.row, self.job
        backend = await self._backend()
        trial.number += 1
        number = row.attempts + trial.number
        attempt_id = await self._db(
            lambda: self.ledger.begin_attempt(
                lease,
                run_id=job.run_id,
                row_id=row.row_id,
                attempt=number,
                now=datetime.now(UTC),
                node_id=self.node_id,
                host=self.host,
                backend=job.backend,
                data_dir=_text(backend.data_dir(None)),
            )
        )
        sessions: list[str] = []
        notes: list[asyncio.Future[None]] = []

        def on_session(session_id: str) -> None:
            if session_id not in sessions:
                sessions.append(session_id)
                place = _text(backend.data_dir(session_id))
                notes.append(
                    asyncio.ensure_future(
                        self._db(lambda: self.ledger.note_session(attempt_id, session_id, data_dir=place))
                    )
                )

        answer: Answer | None = None
        error: OpenCodeError | None = None
        try:
            request = job.request(row.prompt, title=f"{job.run_id} {row.row_id}"[:100])
            answer = await ask(
                backend, request, node_id=self.node_id, on_session=on_session, schema=job.schema
            )
        except SetupError:
            # Not the row's: opencode cannot be run here at all.
            await self._db(self.ledger.release, lease)
            raise
        except OpenCodeError as caught:
            error = caught
        except asyncio.CancelledError:
            error = UnknownOpenCodeError(self.node_id, raw_message="interrupted: the run was stopped")
            error.attempt = AttemptRecord(session_id=sessions[-1] if sessions else None, usage_known=False)
            await asyncio.shield(self._interrupted(lease, attempt_id, error, sessions, backend))
            raise
        await asyncio.gather(*notes, return_exceptions=True)
        recorded = asyncio.shield(self._record(trial, lease, attempt_id, answer, error))
        try:
            until = await recorded
        except LeaseLostError:
            _forget(backend, sessions)
            raise
        _forget(backend, sessions)
        if job.log_dir is not None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._log, row.prompt, _attempt_of(answer, error), error)
        return until

    async def _interrupted(
        self, lease: Lease, attempt_id: str, error: OpenCodeError, sessions: Sequence[str], backend: Backend
    ) -> None:
        """Record a cancelled attempt and free its row; the session itself was aborted by the backend."""
        now = datetime.now(UTC)
        await self._db(
            lambda: self.ledger.end_attempt(attempt_id, record=error.attempt, error=error, now=now)
        )
        await self._db(self.ledger.release, lease)
        _forget(backend, sessions)

    async def _record(
        self, trial: _Trial, lease: Lease, attempt_id: str, answer: Answer | None, error: OpenCodeError | None
    ) -> datetime | None:
        now, row, job = datetime.now(UTC), trial.row, self.job
        record = _attempt_of(answer, error)
        until = None if error is None else trial.decided(error, now, job)
        if error is not None and until is not None:
            await self._db(lambda: self.ledger.end_attempt(attempt_id, record=record, error=error, now=now))
            await self._db(
                lambda: self.ledger.wait_row(
                    lease, run_id=job.run_id, row_id=row.row_id, error=error, until=until
                )
            )
            return until
        await self._db(
            lambda: self.ledger.finish_row(
                lease=lease,
                attempt_id=attempt_id,
                record=record,
                run_id=job.run_id,
                row_id=row.row_id,
                answer=answer,
                error=error,
                now=now,
            )
        )
        return None

    def _log(self, prompt: str, record: AttemptRecord, error: OpenCodeError | None) -> None:
        assert self.job.log_dir is not None
        trace = render_trace([message for session in record.sessions for message in session.messages])
        failure = f"[Error]\n{error}" if error else ""
        append_trace(
            self.job.log_dir,
            f"opencode_{self.job.run_id}",
            self.started,
            prompt=prompt,
            session_id=record.session_id,
            trace="\n\n".join(filter(None, [trace, failure])),
            at=datetime.now(UTC),
        )

    async def _backend(self) -> Backend:
        """The backend, its server started again where it died."""
        return await warm.backend(self.job.spec, self.job.backend, self.job.unpriced)

    async def _db(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(function, *args)


@dataclass(slots=True, kw_only=True)
class _Trial:
    """A row and how often it was tried here."""

    row: OpenRow
    tally: Tally
    number: int = 0
    limited: int = 0
    waited_s: float = 0.0

    def decided(self, error: OpenCodeError, now: datetime, job: Job) -> datetime | None:
        """When to try again, None if the row ends with this error; all rate limit waits are bounded."""
        decision = decide(error, self.tally.count(error), now, job.limits)
        if not isinstance(decision, Retry):
            return None
        wait_s = (decision.at - now).total_seconds()
        if isinstance(error, RateLimitError):
            # A provider that says "now" and goes on refusing must not be asked without end.
            self.limited += 1
            wait_s = max(wait_s, min(LIMIT_FLOOR_MAX_S, LIMIT_FLOOR_S * 2 ** min(self.limited - 1, 10)))
            self.waited_s += wait_s
            if self.waited_s > job.limits.max_rate_limit_wait_s:
                return None
        return now + timedelta(seconds=wait_s) if wait_s <= job.limits.max_inline_wait_s else None


def _attempt_of(answer: Answer | None, error: OpenCodeError | None) -> AttemptRecord:
    if answer is not None:
        return answer.attempt
    return (error and error.attempt) or AttemptRecord(usage_known=False)


def _forget(backend: Backend, sessions: Sequence[str]) -> None:
    """What is in the ledger need not be kept by opencode."""
    for session_id in sessions:
        backend.recorded(session_id)


@cache
def machine() -> str:
    """A name for this boot of this machine and this process namespace: what a pid is unique in."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"


def lease_owner() -> str:
    """A name for this batch that tells its machine, its process and when that was started."""
    process = psutil.Process()
    return f"{machine()}/{process.pid}/{process.create_time():.2f}/{uuid.uuid4().hex[:8]}"


def is_dead(owner: str) -> bool:
    """Whether a lease's owner is known to be gone: a process of this machine that no longer runs."""
    place, pid, created, _ = owner.split("/")
    if place != machine() or int(pid) == os.getpid():
        return False
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(int(pid))
        return process.status() == psutil.STATUS_ZOMBIE or f"{process.create_time():.2f}" != created
    return True


def _text(path: Any) -> str | None:
    return str(path) if path is not None else None
