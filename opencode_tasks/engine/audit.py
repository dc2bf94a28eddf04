"""Audit of a run: which rows were sent once, and which requests may have been paid for twice.

The evidence is the ledger, and on this machine the processes and the sessions that are not in the
ledger yet. A request may have been paid for twice if its attempt had usage, or may have had some, and
another attempt gave the outcome of the row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from opencode_tasks.domain.money import format_usd
from opencode_tasks.domain.text import not_begun
from opencode_tasks.domain.usage import total_of
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import PREPARING, AttemptPair, AuditFacts, Ledger, SentAttempt
from opencode_tasks.opencode.leftovers import instance_dirs, unrecorded_sessions
from opencode_tasks.system.process_identity import is_dead

# Why an attempt did not give the outcome of its row, by its ``error_type``.
REASONS: Mapping[str, str] = {
    "interrupted": "the run was stopped while the row was in flight",
    "crashed": "the process died while the row was in flight",
    "timeout": "no answer came within a time limit",
    "server_error": "the provider failed during the answer",
    "rate_limit": "the provider ended the answer with a rate limit",
    "max_output_tokens": "the answer reached the limit of output tokens, so the row is sent once more",
    "unknown": "the answer was empty or is not known",
}
NO_END = "its process ended without a record"
NOT_USED = "it was answered, but another attempt gave the outcome of the row"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedSend:
    """An attempt that may have been paid for, beside the one that gave the outcome of its row.

    Costs are in pico-dollars: ``cost_pico`` is in the ledger, and the provider may have charged up to
    ``at_most_pico`` more; None if the price of a part is unknown. ``session_on_disk`` says that its
    session is on this machine, so that a resume of the run reads its answer and its usage.
    """

    row_id: str
    attempt: int
    attempt_id: str
    session_id: str | None
    error_type: str | None
    reason: str
    started_at: datetime
    ended_at: datetime | None
    requests: int
    cost_pico: int | None
    at_most_pico: int | None
    session_on_disk: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Findings about the sends of a run. Costs are in pico-dollars, None if unknown.

    ``rows`` has the number of rows by status, of reused ones and of those that were never sent.
    ``sent_once`` of the ``sent_rows`` were sent by one attempt. ``refused`` counts, by error type, the
    further attempts in which the provider refused the row without usage. ``continued`` is the number of
    attempts whose session a later attempt continued, so that their steps were paid for once.
    ``in_flight`` attempts have no end yet, and their process may work on them. ``at_most_pico`` is the upper
    bound of the provider's bill. ``relay_requests`` left the sandboxes of the rows for the providers, and
    ``relay_refused`` were refused there; None without a sandbox. ``faults`` are contradictions to the
    promises, one line each.
    """

    run_id: str
    status: str
    rows: Mapping[str, int]
    sent_rows: int
    sent_once: int
    attempts: int
    requests: int
    repeated_requests: int
    refused: Mapping[str, int]
    continued: int
    repeated: Sequence[RepeatedSend]
    in_flight: Sequence[SentAttempt]
    cost_pico: int
    at_most_pico: int | None
    relay_requests: int | None
    relay_refused: int | None
    faults: Sequence[str]

    @property
    def repeated_pico(self) -> tuple[int | None, int | None]:
        """Cost of the repeated sends in the ledger, and the upper bound of their whole cost."""
        costs = [one.cost_pico for one in self.repeated]
        bounds = [total_of((one.cost_pico, one.at_most_pico)) for one in self.repeated]
        return total_of(costs), total_of(bounds)


def audit(ledger: Ledger, run_id: str) -> Audit | None:
    """Audit a run; None if the ledger has no such run. Raises InputError if its rows are not all written."""
    facts = ledger.audits.facts(run_id)
    if facts is None:
        return None
    if facts.run["status"] == PREPARING:
        raise InputError((not_begun(run_id),))
    on_disk = unrecorded_sessions(instance_dirs())
    by_row: dict[str, list[SentAttempt]] = {}
    for attempt in facts.unclear:
        by_row.setdefault(attempt.row_id, []).append(attempt)
    outcomes = {_outcome(found) for found in by_row.values()}
    in_flight = [one for one in facts.unclear if _is_in_flight(one, by_row[one.row_id])]
    settled = outcomes | {one.attempt_id for one in in_flight}
    others = [one for one in facts.unclear if one.attempt_id not in settled]
    went_on = {one.attempt_id for found in by_row.values() for one in _continued(found, outcomes)}
    others = [_call_in_flight(one) if one.attempt_id in went_on else one for one in others]
    counts = {
        name: facts.counts[name] for name in ("total", "completed", "failed", "skipped", "open", "reused")
    }
    several = sum(len(found) > 1 for found in by_row.values())
    return Audit(
        run_id=run_id,
        status=facts.run["status"],
        rows=counts | {"never_sent": facts.counts["total"] - facts.sent_rows},
        sent_rows=facts.sent_rows,
        sent_once=facts.sent_rows - several,
        attempts=facts.attempts,
        requests=facts.requests,
        repeated_requests=facts.repeated_requests,
        refused=dict(
            Counter(
                one.error_type or "unknown"
                for one in others
                if not _may_be_paid(one) and one.attempt_id not in went_on
            )
        ),
        continued=len(went_on),
        repeated=[_repeated(one, facts, on_disk) for one in others if _may_be_paid(one)],
        in_flight=in_flight,
        cost_pico=facts.run["spent_pico"],
        at_most_pico=total_of((facts.run["spent_pico"], facts.unreported_pico)),
        relay_requests=sum(one.requests for one in facts.relayed) if facts.relayed else None,
        relay_refused=sum(one.refused for one in facts.relayed) if facts.relayed else None,
        faults=_faults(facts, by_row),
    )


def _outcome(found: Sequence[SentAttempt]) -> str | None:
    """Id of the attempt that gave the outcome of its row; None if the row is open or reused another's."""
    row = found[0]
    if row.row_reused or row.row_status == "open":
        return None
    ended = [one for one in found if one.ended_at is not None]
    answered = [one for one in ended if one.status == "completed"]
    chosen = answered if row.row_status == "completed" else ended
    return chosen[-1].attempt_id if chosen else None


def _is_in_flight(attempt: SentAttempt, of_row: Sequence[SentAttempt]) -> bool:
    is_last = of_row[-1].attempt_id == attempt.attempt_id
    return (
        attempt.ended_at is None and is_last and attempt.row_status == "open" and not is_dead(attempt.owner)
    )


def _continued(found: Sequence[SentAttempt], outcomes: Collection[str | None]) -> list[SentAttempt]:
    """The attempts at a row whose session was continued up to its outcome, or up to its last attempt.

    A row without an outcome can still continue the session of its last attempt with a session.
    """
    ends = [one for one in found if one.attempt_id in outcomes]
    ends = ends or [one for one in found if one.continues is not None][-1:]
    if not ends:
        return []
    end = ends[-1]
    return [one for one in found if one.session_id == end.session_id and one.attempt < end.attempt]


def _call_in_flight(attempt: SentAttempt) -> SentAttempt:
    """A continued attempt without its recorded calls, which were of use: what is left was in flight."""
    return replace(attempt, requests=0, unpriced_requests=0, cost_pico=0)


def _may_be_paid(attempt: SentAttempt) -> bool:
    return attempt.requests > 0 or not attempt.usage_known


def _repeated(attempt: SentAttempt, facts: AuditFacts, on_disk: Mapping[str, Any]) -> RepeatedSend:
    if attempt.ended_at is None:
        reason = NO_END
    elif attempt.error_type is None:
        reason = NOT_USED
    else:
        reason = REASONS.get(attempt.error_type, f"it ended with {attempt.error_type}")
    return RepeatedSend(
        row_id=attempt.row_id,
        attempt=attempt.attempt,
        attempt_id=attempt.attempt_id,
        session_id=attempt.session_id,
        error_type=attempt.error_type,
        reason=reason,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        requests=attempt.requests,
        cost_pico=None if attempt.unpriced_requests else attempt.cost_pico,
        at_most_pico=_bound(attempt, facts),
        session_on_disk=attempt.attempt_id in on_disk,
    )


def _bound(attempt: SentAttempt, facts: AuditFacts) -> int | None:
    """Upper bound of what an attempt may have cost beyond its cost in the ledger; None if unknown."""
    if attempt.usage_known and not attempt.unpriced_requests:
        return 0
    return attempt.at_most_pico if facts.has_price else None


def _faults(facts: AuditFacts, by_row: Mapping[str, Sequence[SentAttempt]]) -> list[str]:
    faults = [f"{_pair(pair, facts)} were in flight at the same time" for pair in facts.overlaps]
    faults += [
        f"row {row_id!r} was answered by {count} attempts"
        for row_id, found in by_row.items()
        if (count := sum(one.status == "completed" for one in found)) > 1
    ]
    faults += [
        f"{_pair(pair, facts)}: the second was answered before the first was sent"
        for pair in facts.unused_answers
    ]
    faults += [
        f"row {row_id!r} is completed, and no attempt has its answer" for row_id in facts.without_attempt
    ]
    # Requests of a failed attempt can be in flight at its end.
    faults += [
        f"row {one.row_id!r} attempt {one.attempt}: the provider answered {one.answered} requests from its "
        f"sandbox, and opencode reported {one.recorded}"
        for one in facts.relayed
        if one.has_answer and one.answered > one.recorded
    ]
    return faults + [
        f"the ledger stores {_shown(name, stored)} as {name.removesuffix('_pico')}, and its parts add up to "
        f"{_shown(name, added)}"
        for name, (stored, added) in facts.sums.items()
        if stored != added
    ]


def _pair(pair: AttemptPair, facts: AuditFacts) -> str:
    other = "" if pair.other_run_id == facts.run["run_id"] else f" of run {pair.other_run_id}"
    return (
        f"attempt {pair.attempt_id} at row {pair.row_id!r} and attempt {pair.other_attempt_id} at row "
        f"{pair.other_row_id!r}{other}"
    )


def _shown(name: str, value: int) -> str:
    return str(value) if name == "rows" else format_usd(value)
