"""One attempt at one row under its lease: written before it is sent, recorded the moment it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from opencode_tasks.asking import ask
from opencode_tasks.errors import (
    AuthenticationError,
    BillingError,
    OpenCodeError,
    RateLimitError,
    SetupError,
)
from opencode_tasks.flow.job import Job
from opencode_tasks.flow.pacing import Pacer
from opencode_tasks.flow.reserving import Reservations
from opencode_tasks.judge import over_row_budget
from opencode_tasks.ledger import INTERRUPTED, Lease, LeaseLostError, Ledger, OpenRow, Report
from opencode_tasks.opencode.backend import Backend
from opencode_tasks.policy import Fail, Pause, Retry, Tally, decide, doubled_s, limit_end
from opencode_tasks.records import Answer, AttemptRecord
from opencode_tasks.telemetry import Carrier, span, tell_attempt
from opencode_tasks.trace import append_trace, render_trace

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The row has its outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """The row is open; ``until`` None means that a person is needed.

    ``holds_all`` says that the gate is closed: every other row would be held back too.
    """

    until: datetime | None
    error_type: str
    words: str
    holds_all: bool = False


After = Ended | Waits


@dataclass(slots=True, kw_only=True)
class Trial:
    """A row and how often it was tried."""

    row: OpenRow
    tally: Tally
    number: int
    limited_since: datetime | None

    @classmethod
    def of(cls, row: OpenRow) -> Trial:
        """A trial that goes on where the ledger says that the row is."""
        tally = Tally(used=row.used, cut_off=row.cut_off, limited=row.limited)
        return cls(row=row, tally=tally, number=row.attempts, limited_since=row.limited_since)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an attempt runs and in whose name."""

    ledger: Ledger
    job: Job
    owner: str
    node_id: str
    host: str
    started: datetime
    reservations: Reservations
    pacer: Pacer
    trace: Carrier = field(default_factory=dict[str, str])

    async def db(self, function: Callable[..., T], *args: Any) -> T:
        """Ask the ledger, off the loop."""
        return await asyncio.to_thread(function, *args)


async def attempt(place: Place, backend: Backend, trial: Trial, lease: Lease) -> After:
    """Send a row once and record what came of it.

    Raises SetupError where opencode cannot run here, and BudgetReachedError, with nothing sent,
    where the run's budget is too little for the row.
    """
    return await _Attempt(place, backend, trial, lease).run()


class _Attempt:
    def __init__(self, place: Place, backend: Backend, trial: Trial, lease: Lease) -> None:
        self.place = place
        self.backend = backend
        self.trial = trial
        self.lease = lease
        self.sessions: list[str] = []
        self.notes: list[asyncio.Future[None]] = []
        self.attempt_id = ""
        self.begun = datetime.now(UTC)

    async def run(self) -> After:
        place, row = self.place, self.trial.row
        left = await self._left_to_spend()
        if left is not None and left <= 0:
            return await self._too_dear(left)
        reserve = await place.db(place.reservations.for_prompt, row.prompt)
        self.begun = datetime.now(UTC)
        self.attempt_id = await place.db(
            lambda: place.ledger.begin_attempt(
                self.lease,
                run_id=place.job.run_id,
                row_id=row.row_id,
                attempt=self.trial.number + 1,
                now=self.begun,
                node_id=place.node_id,
                host=place.host,
                backend=place.job.backend,
                data_dir=_text(self.backend.data_dir(None)),
                gate_id=place.job.gate_id,
                reserve_pico=reserve,
                call_most_pico=place.reservations.further_call(),
            )
        )
        self.trial.number += 1
        answer, error = await self._ask_traced(left)
        await asyncio.gather(*self.notes, return_exceptions=True)
        try:
            after = await asyncio.shield(self._record(answer, error))
        except LeaseLostError:
            self._forget()
            raise
        self._forget()
        if place.job.log_dir is not None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._log, self._record_of(answer, error), error)
        return after

    async def _left_to_spend(self) -> int | None:
        """What the row may still cost, in pico-dollars; None for any cost."""
        cap = self.place.job.max_row_cost_pico
        if cap is None or self.trial.number == 0:
            return cap
        spent = await self.place.db(self.place.ledger.spent_on, self.place.job.run_id, self.trial.row.row_id)
        return cap - spent

    async def _too_dear(self, left: int) -> After:
        """Fail a row whose attempts so far cost all that it may."""
        place = self.place
        cap = place.job.max_row_cost_pico or 0
        error = over_row_budget(cap, cap - left, node_id=place.node_id, exit_code=-1)
        fail = place.ledger.fail_row
        kind, words, now = error.error_type, error.raw_message, datetime.now(UTC)
        run_id, row_id = place.job.run_id, self.trial.row.row_id
        await place.db(lambda: fail(run_id, row_id, error_type=kind, error_message=words, now=now))
        await place.db(place.ledger.release, self.lease)
        return Ended()

    async def _ask_traced(self, left: int | None) -> tuple[Answer | None, OpenCodeError | None]:
        """Ask within a span of the row's."""
        job, row = self.place.job, self.trial.row
        told = {"run_id": job.run_id, "row_id": row.row_id, "attempt": self.trial.number}
        with span("opencode row", self.place.trace, **told) as row_span:
            answer, error = await self._ask(left)
            tell_attempt(
                row_span,
                model_ref=job.model_ref,
                agent=job.spec.agent,
                answer=answer,
                error=error,
                record=self._record_of(answer, error),
                seconds=(datetime.now(UTC) - self.begun).total_seconds(),
            )
        return answer, error

    async def _ask(self, left: int | None) -> tuple[Answer | None, OpenCodeError | None]:
        place, row = self.place, self.trial.row
        title = f"{place.job.run_id} {row.row_id}"[:100]
        request = place.job.request(row.prompt, title=title, max_cost_pico=left)
        try:
            answer = await ask(
                self.backend,
                request,
                node_id=place.node_id,
                on_session=self._note_session,
                schema=place.job.schema,
            )
        except SetupError:
            # Not the row's: opencode cannot be run here at all.
            await place.db(place.ledger.release, self.lease)
            raise
        except OpenCodeError as error:
            return None, error
        except asyncio.CancelledError:
            await asyncio.shield(self._interrupted())
            raise
        return answer, None

    def _note_session(self, session_id: str) -> None:
        if session_id in self.sessions:
            return
        self.sessions.append(session_id)
        folder = _text(self.backend.data_dir(session_id))
        note = self.place.ledger.note_session
        written = self.place.db(lambda: note(self.attempt_id, session_id, data_dir=folder))
        self.notes.append(asyncio.ensure_future(written))

    async def _interrupted(self) -> None:
        """Record a cancelled attempt and free its row; the session itself was aborted by the backend."""
        ledger = self.place.ledger
        error = OpenCodeError(self.place.node_id, INTERRUPTED, raw_message="the run was stopped")
        session_id = self.sessions[-1] if self.sessions else None
        seen = self.backend.seen(session_id) if session_id is not None else []
        record = self.place.job.prices.priced_record(
            AttemptRecord(session_id=session_id, sessions=seen, usage_known=False)
        )
        now = datetime.now(UTC)
        await self.place.db(lambda: ledger.end_attempt(self.attempt_id, record=record, error=error, now=now))
        await self.place.db(ledger.release, self.lease)
        self._forget()

    async def _record(self, answer: Answer | None, error: OpenCodeError | None) -> After:
        """Tell the gate first, so that it closes at once, then commit the outcome."""
        now = datetime.now(UTC)
        await self.place.db(self._report, error, now)
        row, record = self.trial.row, self._record_of(answer, error)
        await self.place.pacer.ended(row.row_id, row.prompt, error, self.begun, record)
        decision = None if error is None else self.trial.decide(error, now, self.place.job)
        if error is None or decision is None:
            await self.place.db(self._finish, answer, error, now)
            return Ended()
        until = decision.at if isinstance(decision, Retry) else None
        await self.place.db(self._wait, error, until, now)
        return Waits(
            until=until,
            error_type=error.error_type,
            words=error.raw_message,
            holds_all=isinstance(error, RateLimitError | AuthenticationError | BillingError),
        )

    def _report(self, error: OpenCodeError | None, now: datetime) -> None:
        job = self.place.job
        report = Report(
            gate_id=job.gate_id,
            model_ref=job.model_ref,
            run_id=job.run_id,
            row_id=self.trial.row.row_id,
            owner=self.place.owner,
            started_at=self.begun,
            error=error,
        )

        def until_limit_ends(count: int) -> datetime:
            assert isinstance(error, RateLimitError)
            return limit_end(error, count, now)

        self.place.ledger.report(
            report,
            now=now,
            limit_end=until_limit_ends,
            outage_end=lambda count: now + timedelta(seconds=doubled_s(count, job.limits)),
            breaker_failures=job.limits.breaker_failures,
        )

    def _finish(self, answer: Answer | None, error: OpenCodeError | None, now: datetime) -> None:
        self.place.ledger.finish_row(
            lease=self.lease,
            attempt_id=self.attempt_id,
            record=self._record_of(answer, error),
            run_id=self.place.job.run_id,
            row_id=self.trial.row.row_id,
            answer=answer,
            error=error,
            now=now,
        )

    def _wait(self, error: OpenCodeError, until: datetime | None, now: datetime) -> None:
        ledger, job = self.place.ledger, self.place.job
        ledger.end_attempt(self.attempt_id, record=self._record_of(None, error), error=error, now=now)
        ledger.wait_row(self.lease, run_id=job.run_id, row_id=self.trial.row.row_id, error=error, until=until)

    def _record_of(self, answer: Answer | None, error: OpenCodeError | None) -> AttemptRecord:
        """What the attempt left behind, its steps priced."""
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
