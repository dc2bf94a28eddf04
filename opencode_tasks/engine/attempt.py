"""One attempt at one row under its lease: written before it is sent, recorded the moment it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from opencode_tasks.domain.policy import Fail, Pause, Retry, Tally, decide, doubled_s, limit_end
from opencode_tasks.domain.records import Answer, AttemptRecord
from opencode_tasks.engine.ask import ask
from opencode_tasks.engine.limiter import Pacer
from opencode_tasks.engine.reservations import Reservations
from opencode_tasks.engine.write_batcher import Grouped
from opencode_tasks.errors import (
    OpenCodeError,
    RateLimitError,
    SetupError,
)
from opencode_tasks.ledger import (
    INTERRUPTED,
    Begun,
    Finish,
    LeaseLostError,
    Ledger,
    OpenRow,
    Report,
    answered,
)
from opencode_tasks.opencode.backend import Backend
from opencode_tasks.outcomes.trace import append_trace, render_trace
from opencode_tasks.plan.run_spec import Job
from opencode_tasks.system.node import current_node_id
from opencode_tasks.system.process_identity import lease_owner
from opencode_tasks.telemetry import carrier, span, tell_attempt

T = TypeVar("T")

# Transactions for two or three rows cost little more than for one. With many in flight others end within
# a small share of the time that a row takes, which its place is empty then.
MANY_IN_FLIGHT = 8
WAIT_SHARE = 0.05
MOST_WAIT_S = 0.1


class After(Enum):
    """What an attempt left of its row: its outcome, or an open row that waits in the ledger."""

    ENDED = "ended"
    WAITS = "waits"


@dataclass(slots=True, kw_only=True)
class Trial:
    """A row and how often it was tried."""

    row: OpenRow
    tally: Tally
    limited_since: datetime | None

    @classmethod
    def of(cls, row: OpenRow) -> Trial:
        """A trial that goes on where the ledger says that the row is."""
        tally = Tally(used=row.used, cut_off=row.cut_off, limited=row.limited)
        return cls(row=row, tally=tally, limited_since=row.limited_since)

    def decide(self, error: OpenCodeError, now: datetime, job: Job) -> Retry | Pause | None:
        """What becomes of the row; None where it ends with this error."""
        decision = decide(error, self.tally.count(error), now, job.limits)
        match decision:
            case Retry(at=at):
                return (
                    None if isinstance(error, RateLimitError) and self._too_long(at, now, job) else decision
                )
            case Pause():
                return decision
            case Fail() | _:
                return None

    def _too_long(self, at: datetime, now: datetime, job: Job) -> bool:
        self.limited_since = self.limited_since or now
        return at - self.limited_since > timedelta(seconds=job.limits.max_rate_limit_wait_s)


class Place:
    """Where attempts run and in whose name; writes that come at once are grouped."""

    def __init__(self, job: Job, ledger: Ledger, *, batch_id: str) -> None:
        self.job = job
        self.ledger = ledger
        self.owner = lease_owner(batch_id)
        self.node_id = current_node_id()
        self.host = socket.gethostname()
        self.started = datetime.now(UTC)
        self.reservations = Reservations(job, ledger)
        self.pacer = Pacer(job, ledger, self.owner)
        self.trace = carrier()
        # How long the row took that was answered last.
        self.took_s = 0.0
        self.note_session = Grouped(self._note_sessions)
        self.finish = Grouped(self._finish)

    async def db(self, function: Callable[..., T], *args: Any) -> T:
        """Ask the ledger, off the loop."""
        return await asyncio.to_thread(function, *args)

    @property
    def can_wait_s(self) -> float:
        """How long what is known of a row may wait to be recorded together with what is of others."""
        is_worth_it = len(self.pacer.sent) >= MANY_IN_FLIGHT
        return min(MOST_WAIT_S, self.took_s * WAIT_SHARE) if is_worth_it else 0.0

    def _note_sessions(self, notes: Sequence[tuple[str, str, str | None]]) -> Sequence[None]:
        self.ledger.note_sessions(notes)
        return [None] * len(notes)

    def _finish(self, ended: Sequence[tuple[Finish, Report]]) -> Sequence[bool]:
        return self.ledger.finish_answered([one for one, _ in ended], [report for _, report in ended])


async def attempt(place: Place, backend: Backend, begun: Begun) -> After:
    """Send a row whose attempt is begun, and record what came of it.

    Raises SetupError where opencode cannot run here, and LeaseLostError where another has the row.
    """
    return await _Attempt(place, backend, begun).run()


async def give_up(place: Place, begun: Begun, record: AttemptRecord) -> None:
    """Record an attempt that was cut short by us, with what is known of it, and free its row."""
    error = OpenCodeError(place.node_id, INTERRUPTED, raw_message="the run was stopped")
    record = place.job.prices.priced_record(record)
    end = partial(place.ledger.end_attempt, begun.attempt_id, record=record, error=error)
    await place.db(lambda: end(now=datetime.now(UTC)))
    await place.db(place.ledger.release, begun.lease)


class _Attempt:
    def __init__(self, place: Place, backend: Backend, begun: Begun) -> None:
        self.place = place
        self.backend = backend
        self.begun = begun
        self.trial = Trial.of(begun.row)
        self.sessions: list[str] = []
        self.notes: list[asyncio.Future[None]] = []
        self.began = datetime.now(UTC)
        # What the attempt left behind, its steps priced.
        self.record = AttemptRecord()

    async def run(self) -> After:
        place = self.place
        answer, error = await self._ask_traced()
        await asyncio.gather(*self.notes, return_exceptions=True)
        try:
            after = await asyncio.shield(self._record(answer, error))
        finally:
            self._forget()
        if place.job.log_dir is not None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._log, self.record, error)
        return after

    async def _ask_traced(self) -> tuple[Answer | None, OpenCodeError | None]:
        """Ask within a span of the row's."""
        job, row = self.place.job, self.trial.row
        told = {"run_id": job.run_id, "row_id": row.row_id, "attempt": self.begun.number}
        with span("opencode row", self.place.trace, **told) as row_span:
            answer, error = await self._ask()
            self.record = self._record_of(answer, error)
            tell_attempt(
                row_span,
                model_ref=job.model_ref,
                agent=job.spec.agent,
                answer=answer,
                error=error,
                record=self.record,
                seconds=(datetime.now(UTC) - self.began).total_seconds(),
            )
        return answer, error

    async def _ask(self) -> tuple[Answer | None, OpenCodeError | None]:
        place = self.place
        try:
            answer = await ask(
                self.backend,
                place.job.request(self.begun),
                node_id=place.node_id,
                on_session=self._note_session,
                schema=place.job.schema,
            )
        except OpenCodeError as error:
            if not isinstance(error, SetupError):
                return None, error
            # Not the row's: opencode cannot be run here at all.
            await self._interrupted()
            raise
        except asyncio.CancelledError:
            await asyncio.shield(self._interrupted())
            raise
        return answer, None

    def _note_session(self, session_id: str) -> None:
        if session_id in self.sessions:
            return
        self.sessions.append(session_id)
        folder = _text(self.backend.data_dir(session_id))
        note = (self.begun.attempt_id, session_id, folder)
        written = self.place.note_session(note, can_wait_s=self.place.can_wait_s)
        self.notes.append(asyncio.ensure_future(written))

    async def _interrupted(self) -> None:
        """Record a cancelled attempt and free its row; the session itself was aborted by the backend."""
        await asyncio.gather(*self.notes, return_exceptions=True)
        session_id = self.sessions[-1] if self.sessions else None
        seen = self.backend.seen(session_id) if session_id is not None else []
        record = AttemptRecord(session_id=session_id, sessions=seen, usage_known=False)
        await give_up(self.place, self.begun, record)
        self._forget()

    async def _record(self, answer: Answer | None, error: OpenCodeError | None) -> After:
        """Tell the gate first, so that it closes at once, then commit the outcome."""
        now = datetime.now(UTC)
        prompt = self.trial.row.prompt
        if answer is not None:
            await self.place.pacer.ended(self.begun.attempt_id, prompt, None, self.began, self.record)
            ended = (self._finished(answer, now), self._report_of(None))
            self.place.took_s = (now - self.began).total_seconds()
            if not await self.place.finish(ended, can_wait_s=self.place.can_wait_s):
                raise LeaseLostError(self.begun.lease.row_key, self.begun.lease.owner, self.begun.lease.fence)
            return After.ENDED
        assert error is not None
        await self.place.db(self._report, error, now)
        await self.place.pacer.ended(self.begun.attempt_id, prompt, error, self.began, self.record)
        decision = self.trial.decide(error, now, self.place.job)
        if decision is None:
            await self.place.db(self._fail, error, now)
            return After.ENDED
        until = decision.at if isinstance(decision, Retry) else None
        await self.place.db(self._wait, error, until, now)
        return After.WAITS

    def _report_of(self, error: OpenCodeError | None) -> Report:
        job = self.place.job
        return Report(
            gate_id=job.gate_id,
            model_ref=job.model_ref,
            run_id=job.run_id,
            row_id=self.trial.row.row_id,
            owner=self.place.owner,
            started_at=self.began,
            error=error,
            is_try=self.place.pacer.is_trying,
        )

    def _report(self, error: OpenCodeError, now: datetime) -> None:
        job = self.place.job

        def until_limit_ends(count: int) -> datetime:
            assert isinstance(error, RateLimitError)
            return limit_end(error, count, now)

        self.place.ledger.report(
            self._report_of(error),
            now=now,
            limit_end=until_limit_ends,
            outage_end=lambda count: now + timedelta(seconds=doubled_s(count, job.limits)),
            breaker_failures=job.limits.breaker_failures,
        )

    def _finished(self, answer: Answer, now: datetime) -> Finish:
        return Finish(
            lease=self.begun.lease,
            attempt_id=self.begun.attempt_id,
            record=self.record,
            run_id=self.place.job.run_id,
            row_id=self.trial.row.row_id,
            outcome=answered(answer),
            now=now,
        )

    def _fail(self, error: OpenCodeError, now: datetime) -> None:
        self.place.ledger.finish_row(
            lease=self.begun.lease,
            attempt_id=self.begun.attempt_id,
            record=self.record,
            run_id=self.place.job.run_id,
            row_id=self.trial.row.row_id,
            answer=None,
            error=error,
            now=now,
        )

    def _wait(self, error: OpenCodeError, until: datetime | None, now: datetime) -> None:
        ledger, job = self.place.ledger, self.place.job
        ledger.end_attempt(self.begun.attempt_id, record=self.record, error=error, now=now)
        ledger.wait_row(
            self.begun.lease, run_id=job.run_id, row_id=self.trial.row.row_id, error=error, until=until
        )

    def _record_of(self, answer: Answer | None, error: OpenCodeError | None) -> AttemptRecord:
        found = answer.attempt if answer else error.attempt if error else None
        return self.place.job.prices.priced_record(found or AttemptRecord(usage_known=False))

    def _forget(self) -> None:
        """What is in the ledger need not be kept by opencode."""
        for session_id in self.sessions:
            self.backend.recorded(session_id)

    def _log(self, record: AttemptRecord, error: OpenCodeError | None) -> None:
        job = self.place.job
        assert job.log_dir is not None
        trace = render_trace([message for session in record.sessions for message in session.messages])
        failure = f"[Error]\n{error}" if error else ""
        append_trace(
            job.log_dir,
            f"opencode_{job.run_id}",
            self.place.started,
            prompt=self.trial.row.prompt,
            session_id=record.session_id,
            trace="\n\n".join(filter(None, [trace, failure])),
            at=datetime.now(UTC),
        )


def _text(path: Any) -> str | None:
    return str(path) if path is not None else None
