"""Facts about the sends of one run, from which ``engine.audit`` draws its conclusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    case,
    cast,
    exists,
    func,
    or_,
    select,
)

from opencode_tasks.domain.records import RowStatus
from opencode_tasks.ledger.operation_groups import Group, read
from opencode_tasks.ledger.progress import counts_by_run
from opencode_tasks.ledger.review_outcomes import IS_CURRENT
from opencode_tasks.ledger.schema import attempts, inner_retries, reviews, rows, runs, usage
from opencode_tasks.ledger.spend import unreported

# Number of faults of each kind that are listed.
MAX_LISTED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SentAttempt:
    """An attempt of a run, with its cost in pico-dollars.

    ``requests`` is the number of its model calls with a record. ``usage_known`` False means that the
    provider may have counted more; ``at_most_pico`` is the upper bound of that part. ``ended_at`` None
    means that it has no end, ``error_type`` None that it has none or ended with an answer.
    ``continues`` is the number of the attempt whose session it continued; None for a new session.
    ``row_status`` and ``row_reused`` are those of its row now, or before a person reviewed it.
    """

    attempt_id: str
    row_id: str
    attempt: int
    owner: str
    host: str | None
    session_id: str | None
    status: str
    error_type: str | None
    started_at: datetime
    ended_at: datetime | None
    usage_known: bool
    continues: int | None
    requests: int
    unpriced_requests: int
    cost_pico: int
    at_most_pico: int
    row_status: RowStatus
    row_reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptPair:
    """Two attempts at one prompt: the first belongs to the run, the second to this or another run."""

    row_id: str
    attempt_id: str
    other_run_id: str
    other_row_id: str
    other_attempt_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """An attempt in a sandbox: the requests that left it, and those that opencode has reported.

    ``answered`` had an answer without an error. ``recorded`` is the number of model calls with a record.
    """

    row_id: str
    attempt: int
    requests: int
    answered: int
    refused: int
    recorded: int
    has_answer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFacts:
    """Facts about the sends of a run.

    ``run`` is its row in the ledger, ``counts`` are the fields of ``Progress``. ``unclear`` are the
    attempts of rows with several attempts, those without an end and those whose usage is not known; any
    other attempt is the only one of its row. ``overlaps`` were in flight at the same time.
    ``unreported_pico`` is the upper bound of the cost that is not in the ledger, in pico-dollars; None
    if the price is unknown. ``unused_answers`` were sent although an answer of an earlier attempt could
    have been reused. ``sums`` holds totals as stored and as added up again. ``without_attempt`` are
    completed rows without a completed attempt. ``relayed`` has the attempts that ran in a sandbox.
    """

    run: Mapping[str, Any]
    counts: Mapping[str, Any]
    sent_rows: int
    attempts: int
    requests: int
    repeated_requests: int
    has_price: bool
    unreported_pico: int | None
    unclear: Sequence[SentAttempt]
    overlaps: Sequence[AttemptPair]
    unused_answers: Sequence[AttemptPair]
    sums: Mapping[str, tuple[int, int]]
    without_attempt: Sequence[str]
    relayed: Sequence[Relayed]


def audit_facts(connection: Connection, run_id: str) -> AuditFacts | None:
    """The facts about the sends of a run; None if there is no such run."""
    run = connection.execute(select(runs).where(runs.c.run_id == run_id)).mappings().one_or_none()
    if run is None:
        return None
    return AuditFacts(
        run=dict(run),
        counts=counts_by_run(connection, [run_id])[run_id],
        **_totals(connection, run_id),
        unclear=_unclear(connection, run_id),
        overlaps=_overlaps(connection, run_id),
        unused_answers=[] if run["refresh"] else _unused_answers(connection, run_id),
        sums=_sums(connection, run_id),
        without_attempt=_without_attempt(connection, run_id),
        relayed=_relayed(connection, run_id),
    )


def _totals(connection: Connection, run_id: str) -> dict[str, Any]:
    """The fields of ``AuditFacts`` that are counts and sums over all attempts."""
    of_run, called = attempts.c.run_id == run_id, usage.c.run_id == run_id
    retries = select(inner_retries.c.number).join(
        attempts, attempts.c.attempt_id == inner_retries.c.attempt_id
    )
    has_reservation = attempts.c.reserved_pico + attempts.c.spent_pico + attempts.c.max_call_pico > 0
    has_price = or_(
        exists().where(of_run, has_reservation), exists().where(called, usage.c.cost_pico.is_not(None))
    )
    is_unknown = or_(
        exists().where(of_run, attempts.c.usage_known.is_(False)),
        exists().where(called, usage.c.cost_pico.is_(None)),
    )
    bounds = unreported().order_by(None).subquery("bounds")
    own_attempts = select(attempts.c.attempt_id).where(of_run)
    query = select(
        _count(select(attempts.c.row_id).distinct().where(of_run)).label("sent_rows"),
        _count(select(attempts.c.attempt_id).where(of_run)).label("attempts"),
        _count(select(usage.c.step_id).where(called)).label("requests"),
        _count(retries.where(of_run)).label("repeated_requests"),
        has_price.label("has_price"),
        is_unknown.label("is_unknown"),
        _added(bounds.c.at_most_pico, bounds.c.attempt_id.in_(own_attempts)).label("of_unknown_attempts"),
        _added(attempts.c.reserved_pico, and_(of_run, attempts.c.usage_known)).label("of_unpriced_calls"),
    )
    found = dict(connection.execute(query).mappings().one())
    bound = found.pop("of_unknown_attempts") + found.pop("of_unpriced_calls")
    is_unbounded = found.pop("is_unknown") and not found["has_price"]
    return found | {"unreported_pico": None if is_unbounded else bound}


def _unclear(connection: Connection, run_id: str) -> list[SentAttempt]:
    of_run = attempts.c.run_id == run_id
    several = select(attempts.c.row_id).where(of_run).group_by(attempts.c.row_id).having(func.count() > 1)
    calls = (
        select(
            usage.c.attempt_id,
            func.count().label("requests"),
            (func.count() - func.count(usage.c.cost_pico)).label("unpriced_requests"),
        )
        .where(usage.c.run_id == run_id)
        .group_by(usage.c.attempt_id)
        .subquery("calls")
    )
    bounds = unreported().order_by(None).subquery("bounds")
    own = ("attempt_id", "row_id", "attempt", "owner", "host", "session_id", "status", "error_type")
    query = (
        select(
            *(attempts.c[name] for name in own),
            *(attempts.c[name] for name in ("started_at", "ended_at", "usage_known", "continues")),
            func.coalesce(calls.c.requests, 0).label("requests"),
            func.coalesce(calls.c.unpriced_requests, 0).label("unpriced_requests"),
            attempts.c.spent_pico.label("cost_pico"),
            func.coalesce(bounds.c.at_most_pico, attempts.c.reserved_pico).label("at_most_pico"),
            func.coalesce(reviews.c.previous_status, rows.c.status).label("row_status"),
            rows.c.reused.label("row_reused"),
        )
        .join(rows, and_(rows.c.run_id == attempts.c.run_id, rows.c.row_id == attempts.c.row_id))
        .outerjoin(reviews, IS_CURRENT)
        .outerjoin(calls, calls.c.attempt_id == attempts.c.attempt_id)
        .outerjoin(bounds, bounds.c.attempt_id == attempts.c.attempt_id)
        .where(
            of_run,
            or_(
                attempts.c.row_id.in_(several),
                attempts.c.ended_at.is_(None),
                attempts.c.usage_known.is_(False),
                rows.c.reused,
            ),
        )
        .order_by(rows.c.position, attempts.c.started_at, attempts.c.attempt)
    )
    return [SentAttempt(**line) for line in connection.execute(query).mappings()]


def _overlaps(connection: Connection, run_id: str) -> list[AttemptPair]:
    other = attempts.alias("other")
    both_ended = and_(attempts.c.ended_at.is_not(None), other.c.ended_at.is_not(None))
    overlap = and_(~_ended_before(attempts, other), ~_ended_before(other, attempts))
    # Each pair within the run once.
    is_first = or_(other.c.run_id != run_id, other.c.attempt_id > attempts.c.attempt_id)
    return _pairs(connection, run_id, other, and_(both_ended, overlap, is_first))


def _unused_answers(connection: Connection, run_id: str) -> list[AttemptPair]:
    """Attempts that were sent although the row of an earlier attempt had an answer that fits."""
    other, answered = attempts.alias("other"), rows.alias("answered")
    could_be_reused = exists().where(
        answered.c.run_id == other.c.run_id,
        answered.c.row_id == other.c.row_id,
        answered.c.status == "completed",
        answered.c.reused.is_(False),
        answered.c.response.is_not(None),
    )
    return _pairs(
        connection,
        run_id,
        other,
        and_(other.c.status == "completed", _ended_before(other, attempts), could_be_reused),
    )


def _ended_before(first: FromClause, second: FromClause) -> ColumnElement[bool]:
    """Whether an attempt ended before another one at the same prompt began.

    The fences of the key's leases tell the order. Clocks differ between machines and are set, so they
    decide only about ends of earlier versions, and of sessions that were read after their process died.
    """
    return case(
        (first.c.ended_fence.is_not(None), first.c.ended_fence < second.c.fence),
        else_=first.c.ended_at <= second.c.started_at,
    )


def _pairs(
    connection: Connection, run_id: str, other: FromClause, condition: ColumnElement[bool]
) -> list[AttemptPair]:
    is_same_prompt = and_(other.c.row_key == attempts.c.row_key, other.c.attempt_id != attempts.c.attempt_id)
    query = (
        select(
            attempts.c.row_id,
            attempts.c.attempt_id,
            other.c.run_id.label("other_run_id"),
            other.c.row_id.label("other_row_id"),
            other.c.attempt_id.label("other_attempt_id"),
        )
        .join(other, is_same_prompt)
        .where(attempts.c.run_id == run_id, condition)
        .order_by(attempts.c.started_at, other.c.started_at)
        .limit(MAX_LISTED)
    )
    return [AttemptPair(**line) for line in connection.execute(query).mappings()]


def _sums(connection: Connection, run_id: str) -> dict[str, tuple[int, int]]:
    """Totals as stored and as added up again: by one statement, so that both are of one time."""
    added = {
        "rows": _count(select(rows.c.row_id).where(rows.c.run_id == run_id)),
        "spent_pico": _added(attempts.c.spent_pico, attempts.c.run_id == run_id),
        "reserved_pico": _added(attempts.c.reserved_pico, attempts.c.run_id == run_id),
        "cost of the requests": _added(usage.c.cost_pico, usage.c.run_id == run_id),
    }
    stored = {
        "rows": func.coalesce(runs.c.row_count, added["rows"]),
        "spent_pico": runs.c.spent_pico,
        "reserved_pico": runs.c.reserved_pico,
        "cost of the requests": runs.c.spent_pico,
    }
    query = select(*stored.values(), *added.values()).where(runs.c.run_id == run_id)
    values = [int(value) for value in connection.execute(query).one()]
    return dict(zip(stored, zip(values[: len(stored)], values[len(stored) :], strict=True), strict=True))


def _without_attempt(connection: Connection, run_id: str) -> list[str]:
    has_answer = exists().where(
        attempts.c.run_id == rows.c.run_id,
        attempts.c.row_id == rows.c.row_id,
        attempts.c.status == "completed",
    )
    query = select(rows.c.row_id).where(
        rows.c.run_id == run_id,
        rows.c.status == "completed",
        rows.c.reused.is_(False),
        rows.c.votes.is_(None),
        rows.c.answered_by.is_(None),
        ~has_answer,
    )
    return list(connection.execute(query.order_by(rows.c.position).limit(MAX_LISTED)).scalars())


def _relayed(connection: Connection, run_id: str) -> list[Relayed]:
    calls = select(func.count()).where(usage.c.attempt_id == attempts.c.attempt_id).scalar_subquery()
    query = (
        select(
            attempts.c.row_id,
            attempts.c.attempt,
            attempts.c.relay_requests.label("requests"),
            attempts.c.relay_answered.label("answered"),
            attempts.c.relay_refused.label("refused"),
            calls.label("recorded"),
            (attempts.c.status == "completed").label("has_answer"),
        )
        .where(attempts.c.run_id == run_id, attempts.c.relay_requests.is_not(None))
        .order_by(attempts.c.started_at)
    )
    return [Relayed(**line) for line in connection.execute(query).mappings()]


def _count(query: Select[Any]) -> ColumnElement[int]:
    return select(func.count()).select_from(query.subquery()).scalar_subquery()


def _added(column: ColumnElement[Any], condition: ColumnElement[bool]) -> ColumnElement[int]:
    # PostgreSQL sums bigints to a numeric.
    total = cast(func.coalesce(func.sum(column), 0), BigInteger)
    return select(total).where(condition).scalar_subquery()


class Audits(Group):
    """``ledger.audits``: facts about the sends of a run."""

    facts: Final = read(audit_facts)
