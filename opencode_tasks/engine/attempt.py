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

from opencode_tasks.domain.policy import AttemptCounts, AwaitPerson, Fail, Retry, decide, doubled_s, limit_end
from opencode_tasks.domain.records import Answer, AttemptRecord
from opencode_tasks.engine.ask import ask
from opencode_tasks.engine.limiter import Limiter
from opencode_tasks.engine.reservations import Reservations
from opencode_tasks.engine.write_batcher import WriteBatcher
from opencode_tasks.errors import OpenCodeError, SetupError
from opencode_tasks.ledger import (
    INTERRUPTED,
    ClaimedRow,
    FinishedRow,
    GateObservation,
    LeaseLostError,
    Ledger,
    OpenRow,
)
from opencode_tasks.opencode.backend import Backend
from opencode_tasks.outcomes.trace import append_trace, render_trace
from opencode_tasks.plan.run_spec import RunSpec
from opencode_tasks.system.node import current_node_id
from opencode_tasks.system.process_identity import lease_owner
from opencode_tasks.telemetry import carrier, span, tell_attempt

T = TypeVar("T")

# Transactions for two or three rows cost little more than for one. With many in flight others end within
# a small share of the time that a row takes, which its place is empty then.
MANY_IN_FLIGHT = 8
WAIT_SHARE = 0.05
MAX_WAIT_S = 0.1


class AttemptEnd(Enum):
    """What an attempt left of its row: its outcome, or an open row that waits in the ledger."""

    ENDED = "ended"
    WAITS = "waits"


@dataclass(slots=True, kw_only=True)
class RowHistory:
    """A row and how often it was tried."""

    row: OpenRow
    counts: AttemptCounts
    limited_since: datetime | None

    @classmethod
    def of(cls, row: OpenRow) -> RowHistory:
        """A trial that goes on where the ledger says that the row is."""
        counts = AttemptCounts(used=row.used, cut_off=row.cut_off, limited=row.limited)
        return cls(row=row, counts=counts, limited_since=row.limited_since)

    def decide(self, error: OpenCodeError, now: datetime, run_spec: RunSpec) -> Retry | AwaitPerson | None:
        """What becomes of the row; None where it ends with this error."""
        decision = decide(error, self.counts.count(error), now, run_spec.limits)
        match decision:
            case Retry(at=at):
                return (
                    None
                    if error.reaction.wait == "until_reset" and self._too_long(at, now, run_spec)
                    else decision
                )
            case AwaitPerson():
                return decision
            case Fail():
                return None

    def _too_long(self, at: datetime, now: datetime, run_spec: RunSpec) -> bool:
        self.limited_since = self.limited_since or now
        return at - self.limited_since > timedelta(seconds=run_spec.limits.max_rate_limit_wait_s)


class BatchContext:
    """Where attempts run and in whose name; writes that come at once are grouped."""

    def __init__(self, run_spec: RunSpec, ledger: Ledger, *, batch_id: str) -> None:
        self.run_spec = run_spec
        self.ledger = ledger
        self.owner = lease_owner(batch_id)
        self.node_id = current_node_id()
        self.host = socket.gethostname()
        self.started = datetime.now(UTC)
        self.reservations = Reservations(run_spec, ledger)
        self.limiter = Limiter(run_spec, ledger, self.owner)
        self.trace = carrier()
        # How long the row took that was answered last.
        self.took_s = 0.0
        self.note_session = WriteBatcher(self._note_sessions)
        self.finish = WriteBatcher(self._finish)

    async def db(self, function: Callable[..., T], *args: Any) -> T:
        """Ask the ledger, off the loop."""
        return await asyncio.to_thread(function, *args)

    @property
    def max_delay_s(self) -> float:
        """How long what is known of a row may wait to be recorded together with what is of others."""
        is_worth_it = len(self.limiter.sent) >= MANY_IN_FLIGHT
        return min(MAX_WAIT_S, self.took_s * WAIT_SHARE) if is_worth_it else 0.0

    def _note_sessions(self, notes: Sequence[tuple[str, str, str | None]]) -> Sequence[None]:
        self.ledger.attempts.record_sessions(notes)
        return [None] * len(notes)

    def _finish(self, ended: Sequence[tuple[FinishedRow, GateObservation]]) -> Sequence[bool]:
        return self.ledger.queue.finish_many([one for one, _ in ended], [report for _, report in ended])


async def attempt(context: BatchContext, backend: Backend, claimed: ClaimedRow) -> AttemptEnd:
    """Send a row whose attempt is begun, and record what came of it.

    Raises SetupError where opencode cannot run here, and LeaseLostError where another has the row.
    """
    return await _Attempt(context, backend, claimed).run()


async def give_up(context: BatchContext, claimed: ClaimedRow, record: AttemptRecord) -> None:
    """Record an attempt that was cut short by us, with what is known of it, and free its row."""
    error = OpenCodeError(context.node_id, INTERRUPTED, raw_message="the run was stopped")
    record = context.run_spec.prices.priced_record(record)
    end = partial(context.ledger.attempts.end, claimed.attempt_id, record=record, error=error)
    await context.db(lambda: end(now=datetime.now(UTC)))
    await context.db(context.ledger.queue.release, claimed.lease)


class _Attempt:
    def __init__(self, context: BatchContext, backend: Backend, claimed: ClaimedRow) -> None:
        self.context = context
        self.backend = backend
        self.claimed = claimed
        self.history = RowHistory.of(claimed.row)
        self.sessions: list[str] = []
        self.notes: list[asyncio.Future[None]] = []
        self.began = datetime.now(UTC)
        # What the attempt left behind, its steps priced.
        self.record = AttemptRecord()

    async def run(self) -> AttemptEnd:
        context = self.context
        answer, error = await self._ask_traced()
        await asyncio.gather(*self.notes, return_exceptions=True)
        try:
            end = await asyncio.shield(self._record(answer, error))
        finally:
            self._forget()
        if context.run_spec.log_dir is not None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._log, self.record, error)
        return end

    async def _ask_traced(self) -> tuple[Answer | None, OpenCodeError | None]:
        """Ask within a span of the row's."""
        run_spec, row = self.context.run_spec, self.history.row
        told = {"run_id": run_spec.run_id, "row_id": row.row_id, "attempt": self.claimed.number}
        with span("opencode row", self.context.trace, **told) as row_span:
            answer, error = await self._ask()
            self.record = self._record_of(answer, error)
            tell_attempt(
                row_span,
                model_ref=run_spec.model_ref,
                agent=run_spec.spec.agent,
                answer=answer,
                error=error,
                record=self.record,
                seconds=(datetime.now(UTC) - self.began).total_seconds(),
            )
        return answer, error

    async def _ask(self) -> tuple[Answer | None, OpenCodeError | None]:
        context = self.context
        try:
            answer = await ask(
                self.backend,
                context.run_spec.request(self.claimed),
                node_id=context.node_id,
                on_session=self._note_session,
                schema=context.run_spec.schema,
            )
        except OpenCodeError as error:
            return None, error
        except SetupError:
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
        note = (self.claimed.attempt_id, session_id, folder)
        written = self.context.note_session(note, max_delay_s=self.context.max_delay_s)
        self.notes.append(asyncio.ensure_future(written))

    async def _interrupted(self) -> None:
        """Record a cancelled attempt and free its row; the session itself was aborted by the backend."""
        await asyncio.gather(*self.notes, return_exceptions=True)
        session_id = self.sessions[-1] if self.sessions else None
        seen = self.backend.seen(session_id) if session_id is not None else []
        record = AttemptRecord(session_id=session_id, sessions=seen, usage_known=False)
        await give_up(self.context, self.claimed, record)
        self._forget()

    async def _record(self, answer: Answer | None, error: OpenCodeError | None) -> AttemptEnd:
        """Tell the gate first, so that it closes at once, then commit the outcome."""
        now = datetime.now(UTC)
        prompt = self.history.row.prompt
        if answer is not None:
            await self.context.limiter.ended(self.claimed.attempt_id, prompt, None, self.began, self.record)
            ended = (self._finished(answer, now), self._report_of(None))
            self.context.took_s = (now - self.began).total_seconds()
            if not await self.context.finish(ended, max_delay_s=self.context.max_delay_s):
                raise LeaseLostError(
                    self.claimed.lease.row_key, self.claimed.lease.owner, self.claimed.lease.fence
                )
            return AttemptEnd.ENDED
        assert error is not None
        await self.context.db(self._report, error, now)
        await self.context.limiter.ended(self.claimed.attempt_id, prompt, error, self.began, self.record)
        decision = self.history.decide(error, now, self.context.run_spec)
        if decision is None:
            await self.context.db(self._fail, error, now)
            return AttemptEnd.ENDED
        until = decision.at if isinstance(decision, Retry) else None
        await self.context.db(self._wait, error, until, now)
        return AttemptEnd.WAITS

    def _report_of(self, error: OpenCodeError | None) -> GateObservation:
        run_spec = self.context.run_spec
        return GateObservation(
            gate_id=run_spec.gate_id,
            model_ref=run_spec.model_ref,
            run_id=run_spec.run_id,
            row_id=self.history.row.row_id,
            owner=self.context.owner,
            started_at=self.began,
            error=error,
            exceeds_known_limit=self.context.limiter.is_trying,
        )

    def _report(self, error: OpenCodeError, now: datetime) -> None:
        run_spec = self.context.run_spec

        def until_limit_ends(count: int) -> datetime:
            return limit_end(error, count, now)

        self.context.ledger.gates.record(
            self._report_of(error),
            now=now,
            limit_end=until_limit_ends,
            outage_end=lambda count: now + timedelta(seconds=doubled_s(count, run_spec.limits)),
            breaker_failures=run_spec.limits.breaker_failures,
        )

    def _finished(self, answer: Answer, now: datetime) -> FinishedRow:
        return FinishedRow(
            lease=self.claimed.lease,
            attempt_id=self.claimed.attempt_id,
            record=self.record,
            run_id=self.context.run_spec.run_id,
            row_id=self.history.row.row_id,
            answer=answer,
            now=now,
        )

    def _fail(self, error: OpenCodeError, now: datetime) -> None:
        self.context.ledger.queue.finish(
            FinishedRow(
                lease=self.claimed.lease,
                attempt_id=self.claimed.attempt_id,
                record=self.record,
                run_id=self.context.run_spec.run_id,
                row_id=self.history.row.row_id,
                answer=None,
                error=error,
                now=now,
            )
        )

    def _wait(self, error: OpenCodeError, until: datetime | None, now: datetime) -> None:
        ledger, run_spec = self.context.ledger, self.context.run_spec
        ledger.attempts.end(self.claimed.attempt_id, record=self.record, error=error, now=now)
        ledger.queue.wait(
            self.claimed.lease,
            run_id=run_spec.run_id,
            row_id=self.history.row.row_id,
            error=error,
            until=until,
        )

    def _record_of(self, answer: Answer | None, error: OpenCodeError | None) -> AttemptRecord:
        found = answer.attempt if answer else error.attempt if error else None
        return self.context.run_spec.prices.priced_record(found or AttemptRecord(usage_known=False))

    def _forget(self) -> None:
        """What is in the ledger need not be kept by opencode."""
        for session_id in self.sessions:
            self.backend.recorded(session_id)

    def _log(self, record: AttemptRecord, error: OpenCodeError | None) -> None:
        run_spec = self.context.run_spec
        assert run_spec.log_dir is not None
        trace = render_trace([message for session in record.sessions for message in session.messages])
        failure = f"[Error]\n{error}" if error else ""
        append_trace(
            run_spec.log_dir,
            f"opencode_{run_spec.run_id}",
            self.context.started,
            prompt=self.history.row.prompt,
            session_id=record.session_id,
            trace="\n\n".join(filter(None, [trace, failure])),
            at=datetime.now(UTC),
        )


def _text(path: Any) -> str | None:
    return str(path) if path is not None else None
