"""Attempt: one execution of a row under its lease, written before it is sent and recorded when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Final, TypeVar

from opencode_tasks.domain.outage import FailureSeries, cause_of
from opencode_tasks.domain.policy import (
    AttemptCounts,
    Fail,
    Retry,
    decide_row,
    limit_end,
    outage_wait_s,
)
from opencode_tasks.domain.records import Answer, AttemptRecord
from opencode_tasks.domain.work import WorkSpec
from opencode_tasks.engine.ask import ask, check_cost
from opencode_tasks.engine.continuation import Beginning, ended_answer, find_beginning, take_kept
from opencode_tasks.engine.limiter import Limiter
from opencode_tasks.engine.reservation_amounts import Reservations
from opencode_tasks.engine.row_work import RowPlace, checked, feedback, required, undo_check, with_work
from opencode_tasks.engine.write_batcher import WriteBatcher
from opencode_tasks.errors import OpenCodeError, SetupError, UnknownOpenCodeError
from opencode_tasks.ledger import (
    INTERRUPTED,
    ClaimedRow,
    EndedAttempt,
    GateObservation,
    LeaseLostError,
    Ledger,
    OpenRow,
    RowChange,
    completed,
    failed,
    waiting,
)
from opencode_tasks.opencode.backend import Backend, Request
from opencode_tasks.opencode.disk_space import machine_fault
from opencode_tasks.opencode.instance_dir import instance_dirs_root
from opencode_tasks.opencode.leftovers import read_orphaned_sessions
from opencode_tasks.outcomes.trace import append_trace, render_trace
from opencode_tasks.plan.run_spec import RunSpec
from opencode_tasks.system.process_identity import lease_owner
from opencode_tasks.system.ray_node import current_node_id
from opencode_tasks.system.stoppable_thread import in_stoppable_thread
from opencode_tasks.telemetry import carrier, record_attempt, span

T = TypeVar("T")

# A transaction for three rows costs little more than one for a single row. With many rows in flight,
# others end within a small share of the time that a row takes: a write waits that long for them.
MANY_IN_FLIGHT = 8
WRITE_DELAY_SHARE = 0.05
MAX_WRITE_DELAY_S = 0.1
# After so many failures that concern all rows, without an answer between them, no further row is sent.
FAULTS_OF_ALL_ROWS = 3


class AttemptEnd(Enum):
    """Result of an attempt: the outcome of its row, or an open row that waits in the ledger."""

    ENDED = "ended"
    WAITS = "waits"


@dataclass(slots=True, kw_only=True)
class RowHistory:
    """A row, and how often it was attempted."""

    row: OpenRow
    counts: AttemptCounts
    failed_since: datetime | None

    @classmethod
    def of(cls, row: OpenRow) -> RowHistory:
        """History of a row as the ledger has it."""
        counts = AttemptCounts(used=row.used, cut_off=row.cut_off, limited=row.limited, outages=row.outages)
        return cls(row=row, counts=counts, failed_since=row.failed_since)


class BatchContext:
    """The batch in which attempts are made: its identity, and its grouped writes to the ledger."""

    def __init__(self, run_spec: RunSpec, ledger: Ledger, *, batch_id: str) -> None:
        self.run_spec = run_spec
        self.ledger = ledger
        self.owner: Final = lease_owner(batch_id)
        self.node_id: Final = current_node_id()
        self.host: Final = socket.gethostname()
        self.started: Final = datetime.now(UTC)
        self.reservations: Final = Reservations(run_spec, ledger)
        self.limiter: Final = Limiter(run_spec, ledger, self.owner)
        self.trace: Final = carrier()
        # Rows since the last answer that failed by a fault that concerns all rows of the run.
        self.faults_of_all_rows: int = 0
        # Duration of the last row that was answered.
        self.last_row_s: float = 0.0
        self.note_session: Final = WriteBatcher(self._note_sessions, concerns_all=SetupError)
        self.end: Final = WriteBatcher(self._end, concerns_all=SetupError)

    async def db(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function of the ledger in a thread, off the event loop."""
        return await asyncio.to_thread(function, *args)

    @property
    def max_delay_s(self) -> float:
        """Time that a write may wait for the writes of other rows."""
        if len(self.limiter.in_flight) < MANY_IN_FLIGHT:
            return 0.0
        return min(MAX_WRITE_DELAY_S, self.last_row_s * WRITE_DELAY_SHARE)

    def _note_sessions(self, notes: Sequence[tuple[str, str, str | None]]) -> Sequence[None]:
        self.ledger.attempts.record_sessions(notes)
        return [None] * len(notes)

    def _end(self, ended: Sequence[tuple[EndedAttempt, GateObservation]]) -> Sequence[bool]:
        ends, observations = [one for one, _ in ended], [one for _, one in ended]
        return self.ledger.queue.end(ends, observations)


async def attempt(context: BatchContext, backend: Backend, claimed: ClaimedRow) -> AttemptEnd:
    """Send a row whose attempt is written, and record its end.

    Raises SetupError if opencode cannot run here, and LeaseLostError if another worker has the row.
    """
    return await _Attempt(context, backend, claimed).run()


async def give_up(context: BatchContext, claimed: ClaimedRow, record: AttemptRecord) -> None:
    """Record an attempt that we cut short, with what is known of it, and release its row."""
    error = OpenCodeError(context.node_id, INTERRUPTED, raw_message="the run was stopped")
    record = context.run_spec.prices.priced_record(record)
    end = EndedAttempt(
        attempt_id=claimed.attempt_id, record=record, now=datetime.now(UTC), lease=claimed.lease, error=error
    )
    await context.db(context.ledger.queue.end, [end])


class _Attempt:
    def __init__(self, context: BatchContext, backend: Backend, claimed: ClaimedRow) -> None:
        self.context = context
        self.backend = backend
        self.claimed = claimed
        self.history = RowHistory.of(claimed.row)
        self.beginning = Beginning()
        # The answer of the session that it continues, if only the check is left.
        self.finished: Answer | None = None
        self.sessions: list[str] = []
        self.notes: list[asyncio.Future[None]] = []
        self.started_at = datetime.now(UTC)
        # The record of the attempt, with the cost of its steps.
        self.record = AttemptRecord()

    async def run(self) -> AttemptEnd:
        context = self.context
        answer, error = await self._ask_traced()
        if answer is not None or not self._leaves_session(error):
            answer, error = await self._with_work(answer, error)
        await asyncio.gather(*self.notes, return_exceptions=True)
        end = await asyncio.shield(self._record_end(answer, error))
        if context.run_spec.log_dir is not None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._log, self.record, error)
        return end

    async def _ask_traced(self) -> tuple[Answer | None, OpenCodeError | None]:
        """Send the prompt within a span of the row."""
        run_spec, row = self.context.run_spec, self.history.row
        attributes = {"run_id": run_spec.run_id, "row_id": row.row_id, "attempt": self.claimed.number}
        with span("opencode row", self.context.trace, **attributes) as row_span:
            answer, error = await self._ask()
            self.record = self._record_of(answer, error)
            record_attempt(
                row_span,
                model_ref=run_spec.model_ref,
                agent=run_spec.spec.agent,
                answer=answer,
                error=error,
                record=self.record,
                seconds=(datetime.now(UTC) - self.started_at).total_seconds(),
            )
        return answer, error

    async def _ask(self) -> tuple[Answer | None, OpenCodeError | None]:
        work = self.context.run_spec.work
        try:
            request = await self._begin()
            answer = self.finished or await self._send(request)
            if work is not None and work.check_command is not None:
                answer = await self._checked(request, answer, work)
        except OpenCodeError as error:
            return None, error
        except SetupError:
            # Not a fault of the row: opencode cannot run here at all.
            await self._record_interruption()
            raise
        except OSError as fault:
            of_machine = machine_fault(instance_dirs_root(), fault)
            if of_machine is None:
                return None, self._unexpected(fault)
            await self._record_interruption()
            raise of_machine from fault
        except asyncio.CancelledError:
            await asyncio.shield(self._record_interruption())
            raise
        except Exception as surprise:  # noqa: BLE001  it concerns this row alone
            return None, self._unexpected(surprise)
        return answer, None

    async def _begin(self) -> Request:
        """The request of the attempt, which continues the session of an earlier one if that is possible."""
        context, claimed = self.context, self.claimed
        find = partial(find_beginning, run_id=context.run_spec.run_id, host=context.host)
        found = await context.db(find, context.ledger, claimed)
        finished = await self._finished(found)
        self.beginning = found = await take_kept(self.backend, found, claimed.attempt_id)
        if found.kept is not None:
            self.finished = finished
            self._note_session(found.kept.session_id)
            if context.run_spec.work is not None:
                await asyncio.to_thread(undo_check, found.kept.data_dir)
        if found.kept is not None or found.reason is not None:
            start = partial(context.ledger.continued.record_start, claimed.attempt_id)
            await context.db(partial(start, continues=found.continues, begins_anew=found.reason))
        return found.request(context.run_spec.request(claimed))

    async def _finished(self, found: Beginning) -> Answer | None:
        """The answer of an agent that had ended when its attempt was cut short, before or in its check."""
        run_spec, kept = self.context.run_spec, found.kept
        if kept is None or not found.was_cut or run_spec.work is None or run_spec.work.check_command is None:
            return None
        try:
            read = await read_orphaned_sessions(
                run_spec.spec, kept.data_dir, [kept.session_id], run_spec.unpriced
            )
        except SetupError:
            # The agent is asked to go on, as after any other interruption.
            return None
        sessions = read.get(kept.session_id, ())
        return ended_answer(sessions, run_spec.answer_format, self.context.node_id)[0]

    async def _send(self, request: Request) -> Answer:
        return await ask(
            self.backend,
            request,
            node_id=self.context.node_id,
            on_session=self._note_session,
            answer_format=self.context.run_spec.answer_format,
        )

    async def _checked(self, request: Request, answer: Answer, work: WorkSpec) -> Answer:
        """The answer whose work passes the check, or the last one. The agent gets the output of failures."""
        for retries_left in range(work.check_retries, -1, -1):
            data_dir = self.backend.data_dir(self.sessions[-1]) if self.sessions else None
            if data_dir is None:
                break
            answer, end = await in_stoppable_thread(partial(checked, work, data_dir, answer))
            if end is None or end.has_passed or not retries_left:
                break
            check_cost(request, answer, self.context.node_id)
            session_id = answer.attempt.session_id
            answer = await self._send(replace(request, prompt=feedback(end), session_id=session_id))
        return required(work, answer)

    async def _with_work(
        self, answer: Answer | None, error: OpenCodeError | None
    ) -> tuple[Answer | None, OpenCodeError | None]:
        """The end of the attempt with the changes of its workspace. Without a session, there are none."""
        spec = self.context.run_spec.work
        data_dir = self.backend.data_dir(self.sessions[-1]) if self.sessions else None
        if spec is None or data_dir is None:
            return answer, error
        place = RowPlace(run_id=self.context.run_spec.run_id, row_id=self.history.row.row_id)
        return await asyncio.to_thread(with_work, spec, place, data_dir, answer, error)

    def _unexpected(self, surprise: Exception) -> UnknownOpenCodeError:
        """The failure of a row for an exception that no part declares."""
        session_id = self.sessions[-1] if self.sessions else None
        seen = self.backend.partial_sessions(session_id) if session_id is not None else []
        error = UnknownOpenCodeError(
            self.context.node_id, raw_message=f"unexpected {type(surprise).__name__}: {surprise}"
        )
        error.attempt = AttemptRecord(session_id=session_id, sessions=seen, usage_known=False)
        # The answer may have been paid for: the same would happen again.
        error.max_attempts = 1
        return error

    def _note_session(self, session_id: str) -> None:
        if session_id in self.sessions:
            return
        self.sessions.append(session_id)
        data_dir = self.backend.data_dir(session_id)
        note = (self.claimed.attempt_id, session_id, None if data_dir is None else str(data_dir))
        written = self.context.note_session(note, max_delay_s=self.context.max_delay_s)
        self.notes.append(asyncio.ensure_future(written))

    async def _record_interruption(self) -> None:
        """Record a cancelled attempt and release its row. The backend has aborted the session."""
        await asyncio.gather(*self.notes, return_exceptions=True)
        session_id = self.sessions[-1] if self.sessions else None
        seen = self.backend.partial_sessions(session_id) if session_id is not None else []
        record = AttemptRecord(session_id=session_id, sessions=seen, usage_known=False)
        self.record = self.beginning.new_steps(record)
        with contextlib.suppress(OSError):
            await self._keep_session(None)
        await give_up(self.context, self.claimed, self.record)
        self._forget()

    async def _record_end(self, answer: Answer | None, error: OpenCodeError | None) -> AttemptEnd:
        """Record the end. Only then opencode may delete the sessions: until then they are the only record."""
        try:
            end = await self._record(answer, error)
        except LeaseLostError:
            self._forget()
            raise
        self._forget()
        return end

    async def _record(self, answer: Answer | None, error: OpenCodeError | None) -> AttemptEnd:
        if answer is not None:
            try:
                return await self._record_answer(answer)
            except (LeaseLostError, SetupError):
                raise
            except Exception as surprise:  # noqa: BLE001  one that no ledger can store
                error = self._unstorable(answer, surprise)
        assert error is not None
        return await self._record_error(error)

    def _unstorable(self, answer: Answer, surprise: Exception) -> UnknownOpenCodeError:
        """The failure of a row whose answer cannot be written; its usage is recorded without its texts."""
        error = UnknownOpenCodeError(
            self.context.node_id,
            raw_message=f"the answer cannot be stored: {type(surprise).__name__}: {surprise}",
        )
        sessions = [replace(session, messages=[]) for session in answer.attempt.sessions]
        error.attempt, error.max_attempts = replace(answer.attempt, sessions=sessions), 1
        self.record = self._record_of(None, error)
        return error

    async def _record_answer(self, answer: Answer) -> AttemptEnd:
        context, now = self.context, datetime.now(UTC)
        context.faults_of_all_rows = 0
        await self._observe(None)
        context.last_row_s = (now - self.started_at).total_seconds()
        ended = (self._ended(now, completed(answer)), self._observation(None))
        if not await context.end(ended, max_delay_s=context.max_delay_s):
            raise LeaseLostError.of(self.claimed.lease)
        return AttemptEnd.ENDED

    async def _record_error(self, error: OpenCodeError) -> AttemptEnd:
        """Report the error to the gate first, so that the gate closes at once, then commit the row."""
        context, now = self.context, datetime.now(UTC)
        series = await context.db(self._report_to_gate, error, now)
        await self._observe(error)
        history = self.history
        cause = cause_of(error, series, history.failed_since)
        limits = context.run_spec.limits
        decision = decide_row(error, cause, history.counts, history.failed_since, now, limits)
        if isinstance(decision, Fail) and self._may_begin_anew(error):
            decision = Retry(now)
        if isinstance(decision, Fail):
            if self._leaves_session(error):
                error = (await self._with_work(None, error))[1] or error
            await context.db(self._end, self._ended(now, failed(error, self.record), error))
            if error.concerns_all_rows:
                await self._fail_others(error, now)
            return AttemptEnd.ENDED
        await self._keep_session(error)
        change = waiting(error, decision.at if isinstance(decision, Retry) else None)
        end = self._ended(now, change, error, is_outage=cause == "provider")
        await context.db(self._end, end)
        return AttemptEnd.WAITS

    def _may_begin_anew(self, error: OpenCodeError) -> bool:
        """Whether a failed row gets one attempt with a new session: the continued one may be the cause."""
        if self.beginning.had_begun_anew or error.concerns_all_rows or error.max_attempts is not None:
            return False
        has_attempt = self.history.counts.used < self.context.run_spec.limits.max_attempts
        return has_attempt and self.beginning.is_stuck(error, self.record)

    def _leaves_session(self, error: OpenCodeError | None) -> bool:
        return bool(self.sessions) and self.beginning.leaves_session(error, self.record)

    async def _keep_session(self, error: OpenCodeError | None) -> None:
        """Keep the session for the next attempt at the row, before that attempt can begin."""
        if self._leaves_session(error):
            await self.backend.keep_session(self.sessions[-1], self.claimed.attempt_id)

    async def _fail_others(self, error: OpenCodeError, now: datetime) -> None:
        """Fail the rows that are not sent yet, if some rows in a row failed by a fault of all rows."""
        context = self.context
        context.faults_of_all_rows += 1
        if context.faults_of_all_rows < FAULTS_OF_ALL_ROWS:
            return
        fail = partial(
            context.ledger.rows.fail_open,
            context.run_spec.run_id,
            error_type=error.error_type,
            error_message=f"not sent, because other rows failed with: {error.raw_message}",
            now=now,
        )
        await context.db(fail)

    async def _observe(self, error: OpenCodeError | None) -> None:
        attempt_id, prompt = self.claimed.attempt_id, self.history.row.prompt
        await self.context.limiter.observe(attempt_id, prompt, error, self.started_at, self.record)

    def _observation(self, error: OpenCodeError | None) -> GateObservation:
        run_spec = self.context.run_spec
        return GateObservation(
            gate_id=run_spec.gate_id,
            model_ref=run_spec.model_ref,
            run_id=run_spec.run_id,
            row_id=self.history.row.row_id,
            owner=self.context.owner,
            started_at=self.started_at,
            error=error,
            exceeds_known_limit=self.context.limiter.is_trying,
        )

    def _report_to_gate(self, error: OpenCodeError, now: datetime) -> FailureSeries:
        run_spec = self.context.run_spec

        def until_limit_ends(count: int) -> datetime:
            return limit_end(error, count, now)

        return self.context.ledger.gates.record(
            self._observation(error),
            now=now,
            limit_end=until_limit_ends,
            outage_end=lambda count: now + timedelta(seconds=outage_wait_s(error, count, run_spec.limits)),
            breaker_failures=run_spec.limits.breaker_failures,
        )

    def _ended(
        self, now: datetime, row: RowChange, error: OpenCodeError | None = None, *, is_outage: bool = False
    ) -> EndedAttempt:
        return EndedAttempt(
            lease=self.claimed.lease,
            attempt_id=self.claimed.attempt_id,
            record=self.record,
            now=now,
            error=error,
            row=row,
            is_outage=is_outage,
        )

    def _end(self, end: EndedAttempt) -> None:
        if not self.context.ledger.queue.end([end])[0]:
            raise LeaseLostError.of(self.claimed.lease)

    def _record_of(self, answer: Answer | None, error: OpenCodeError | None) -> AttemptRecord:
        found = answer.attempt if answer else error.attempt if error else None
        found = self.beginning.new_steps(found or AttemptRecord(usage_known=False))
        return self.context.run_spec.prices.priced_record(found)

    def _forget(self) -> None:
        """Let opencode delete the sessions: they are in the ledger."""
        for session_id in self.sessions:
            self.backend.release_session(session_id)

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
