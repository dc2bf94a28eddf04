"""Continuation: an attempt at a row takes over the session and the workspace of the attempt before it.

The session of an agent with finished steps is kept on its machine if its attempt ends before its row has an
outcome. What was paid for is then not paid for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from opencode_tasks.domain.answer_schema import InvalidAnswer
from opencode_tasks.domain.records import Answer, AttemptRecord, Session
from opencode_tasks.errors import InvalidRequestError, OpenCodeError, UnknownOpenCodeError, error_types
from opencode_tasks.ledger import CRASHED, INTERRUPTED, ClaimedRow, EarlierAttempt, Ledger
from opencode_tasks.opencode.backend import CONTINUATION, Backend, KeptSession, Request
from opencode_tasks.opencode.leftovers import ended_at, finished_result
from opencode_tasks.outcomes.outcome import CALLS_TOOLS, read_outcome
from opencode_tasks.plan.answer_format import AnswerFormat

# A session that meets one of these at its first request may be the cause itself.
OF_THE_SESSION = (InvalidRequestError, UnknownOpenCodeError)
STUCK = tuple(cls.error_type for cls in OF_THE_SESSION)
NOT_CONTINUED = error_types(lambda reaction: not reaction.continues_session)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """How an attempt begins.

    - ``kept``: the session that it continues, that of attempt number ``continues``; None for a new one.
    - ``reason``: why it begins anew although an earlier attempt had finished steps; None if it does not.
    - ``steps``: the model calls that are recorded for earlier attempts, by session and step.
    - ``session_pico``: the cost of those that belong to the session, in pico-dollars. ``children_pico`` is
      that of its sub-agents among them.
    - ``was_cut``: whether the attempt before it was cut short by us, or by the death of its process.
    - ``had_begun_anew``: whether an earlier attempt at the row has begun anew.
    """

    kept: KeptSession | None = None
    continues: int | None = None
    reason: str | None = None
    steps: frozenset[tuple[str, str]] = field(default_factory=frozenset[tuple[str, str]])
    session_pico: int = 0
    children_pico: int = 0
    was_cut: bool = False
    had_begun_anew: bool = False

    def request(self, request: Request) -> Request:
        """The request of the attempt: its first prompt, or the one that continues the session."""
        if self.kept is None:
            return request
        limit = request.max_cost_pico
        return replace(
            request,
            prompt=CONTINUATION,
            session_id=self.kept.session_id,
            # The cost of a session includes that of its earlier steps.
            max_cost_pico=None if limit is None else limit + self.session_pico,
            children_pico=self.children_pico,
        )

    def new_steps(self, record: AttemptRecord) -> AttemptRecord:
        """The record without the model calls that are recorded for earlier attempts."""
        if not self.steps:
            return record
        return replace(record, sessions=[self._without_old(session) for session in record.sessions])

    def _without_old(self, session: Session) -> Session:
        steps = [step for step in session.steps if (step.session_id, step.step_id) not in self.steps]
        return replace(session, steps=steps)

    def is_stuck(self, error: OpenCodeError | None, record: AttemptRecord) -> bool:
        """Whether the continued session itself may be why the attempt failed: it made no step."""
        return self.kept is not None and isinstance(error, OF_THE_SESSION) and not record.steps

    def leaves_session(self, error: OpenCodeError | None, record: AttemptRecord) -> bool:
        """Whether the next attempt may continue the session of an attempt with this end.

        ``record`` has its new steps; ``error`` None stands for an attempt that we cut short.
        """
        if error is not None and not error.reaction.continues_session:
            return False
        if self.is_stuck(error, record):
            return False
        return self.kept is not None or has_work(record.sessions)


def has_work(sessions: Sequence[Session]) -> bool:
    """Whether the agent of a root session has called tools in a finished step."""
    return bool(sessions) and any(step.finish_reason == CALLS_TOOLS for step in sessions[0].steps)


async def take_kept(backend: Backend, found: Beginning, attempt_id: str) -> Beginning:
    """The beginning with its session taken, or without it; raises as ``Backend.take_session`` does."""
    if found.kept is None or await backend.take_session(found.kept, attempt_id):
        return found
    host = found.kept.host
    place = "not on this machine any more" if host is None else f"on the machine {host}"
    reason = f"the session of attempt {found.continues} is {place}"
    return replace(found, kept=None, continues=None, reason=reason)


def ended_answer(
    sessions: Sequence[Session], answer_format: AnswerFormat | None, node_id: str
) -> tuple[Answer | None, OpenCodeError | None]:
    """The answer or the error in which a session on the disk ended; neither if it had not ended."""
    result = finished_result(sessions)
    if result is None:
        return None, None
    try:
        answer = read_outcome(result, node_id=node_id, now=ended_at(sessions) or datetime.now(UTC))
    except OpenCodeError as error:
        return None, error
    if answer_format is None:
        return answer, None
    parsed = answer_format.parse(answer.text)
    if isinstance(parsed, InvalidAnswer):
        # The repair turn was still to come.
        return None, None
    return replace(answer, structured=parsed.value), None


def find_beginning(ledger: Ledger, claimed: ClaimedRow, *, run_id: str, host: str) -> Beginning:
    """How an attempt begins, by the ledger."""
    if claimed.number == 1:
        return Beginning()
    row_id = claimed.row.row_id
    earlier = ledger.continued.earlier_attempts(run_id, row_id, claimed.number)
    left = next((one for one in reversed(earlier) if one.session_id is not None), None)
    if left is None or left.session_id is None:
        return Beginning()
    recorded = ledger.continued.recorded_steps(run_id, row_id)
    of_session = [step for step in recorded if step.session_id == left.session_id]
    if not any(step.finish_reason == CALLS_TOOLS for step in of_session):
        return Beginning()
    in_session = {one.attempt_id for one in earlier if one.session_id == left.session_id}
    children = [step for step in recorded if step.attempt_id in in_session and step not in of_session]
    root_pico, children_pico = (sum(step.cost_pico or 0 for step in part) for part in (of_session, children))
    found = Beginning(
        steps=frozenset((step.session_id, step.step_id) for step in recorded),
        session_pico=root_pico + children_pico,
        children_pico=children_pico,
        was_cut=left.error_type in (INTERRUPTED, CRASHED),
        had_begun_anew=any(one.begins_anew is not None for one in earlier),
    )
    reason = _obstacle(left, claimed)
    if reason is not None:
        return replace(found, reason=reason)
    kept = KeptSession(
        session_id=left.session_id,
        data_dir=Path(left.data_dir or ""),
        left_by=left.attempt_id,
        host=None if left.host == host else left.host,
    )
    return replace(found, kept=kept, continues=left.attempt)


def _obstacle(left: EarlierAttempt, claimed: ClaimedRow) -> str | None:
    """Why a session cannot be continued, wherever it is; None if nothing is known."""
    if left.row_key != claimed.row.row_key:
        return f"the row has changed since attempt {left.attempt}"
    if left.error_type in NOT_CONTINUED:
        return f"the answer of attempt {left.attempt} was cut at a limit of tokens"
    if left.continues is not None and not left.steps and left.error_type in STUCK:
        return f"attempt {left.attempt} made no step in the session that it continued"
    return None
