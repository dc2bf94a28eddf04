"""Concurrency of a gate, shared by all workers: the limit of the gate and the slots of each worker.

A worker asks about once a second, and at once after a refusal. It reports the ends of its rows and
receives its share of the slots. The share is valid until the worker's next request, so that all
shares together never exceed the limit; the share of a worker that stops asking expires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, func, select

from opencode_tasks.domain.concurrency import (
    TURN_S,
    AdaptiveLimit,
    after_answers,
    after_refusals,
    current_limit,
    divide,
)
from opencode_tasks.domain.rate_limits import RateLimits, level, rows_within
from opencode_tasks.ledger.clock import lease_time, times
from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.schema import concurrency_limits, concurrency_shares

# A worker that has not asked for this long counts as dead.
WORKER_TIMEOUT_S = 15.0

_LIMIT_FIELDS = {one.name for one in fields(AdaptiveLimit)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyRequest:
    """Report of a worker since its last request, and what it asks for.

    - ``in_flight``: its rows in flight; ``wants``: the number that it could have in flight.
    - ``is_pressed``: it had more rows to send than slots. ``is_leaving``: it asks for the last time.
    - ``answers``, ``refusals``: start times of its rows that were answered, and refused.
    - ``refused_of``: its rows in flight at the refusal. ``rest_s``: seconds during which the provider
      accepts no rows.
    - ``start``: the limit of a gate about which nothing is known.

    The other fields concern ``rate_limits``. Of the rows that it was allowed to send, ``unsent`` were
    not sent, each of ``unsent_tokens``. The others needed ``more_requests`` and ``more_tokens`` than
    were counted for them. It asks to send ``asks`` rows, each of ``row_tokens``.
    """

    in_flight: int
    wants: int
    is_leaving: bool = False
    is_pressed: bool = False
    answers: Sequence[datetime] = ()
    refusals: Sequence[datetime] = ()
    refused_of: int = 0
    rest_s: float = 0.0
    start: int
    rate_limits: RateLimits = field(default_factory=RateLimits)
    unsent: int = 0
    unsent_tokens: float = 0.0
    more_requests: float = 0.0
    more_tokens: float = 0.0
    asks: int = 0
    row_tokens: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Rows that a worker may have in flight and send (None: any number) until its next request.

    ``is_trying`` says that the limit is above the number that the provider is known to accept.
    """

    slots: int
    sends: int | None
    is_trying: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyState:
    """Rows in flight at a gate and their limit, over all workers.

    Attributes:
        in_flight: Number of rows in flight.
        limit: Number of rows that may be in flight. A limit above ``ceiling`` is on trial.
        ceiling: Number of rows that the provider is known to accept; None before its first refusal.

    Examples:
        >>> from opencode_tasks import ConcurrencyState
        >>> pace = ConcurrencyState(in_flight=12, limit=14, ceiling=12)
        >>> pace.ceiling is not None and pace.limit > pace.ceiling
        True
    """

    in_flight: int
    limit: int
    ceiling: int | None


def sync_concurrency(
    connection: Connection,
    gate_id: str,
    owner: str,
    request: ConcurrencyRequest,
    *,
    now: datetime | None = None,
) -> Allocation:
    """Adjust the limit of a gate by the report of a worker, and return the worker's share."""
    line = _locked_line(connection, gate_id)
    now, lease_now = times(connection, now)
    others = _other_workers(connection, gate_id, owner, lease_now)
    limit = current_limit(limit_of(line["state"]), start=request.start, now=now)
    if request.refusals:
        in_flight = request.refused_of + sum(other["in_flight"] for other in others)
        limit = after_refusals(limit, request.refusals, in_flight=in_flight, rest_s=request.rest_s, now=now)
    limit = after_answers(limit, request.answers, is_pressed=request.is_pressed, now=now)
    slots = _slots(limit, others, owner, request, now)
    sends, levels = _sends(line, request, now)
    connection.execute(
        concurrency_limits.update()
        .where(concurrency_limits.c.gate_id == gate_id)
        .values(state=_state_of(limit), **levels)
    )
    if request.is_leaving:
        shares = concurrency_shares
        connection.execute(shares.delete().where(shares.c.gate_id == gate_id, shares.c.owner == owner))
    else:
        _write_share(connection, gate_id, owner, request, slots, lease_now)
    return Allocation(slots=slots, sends=sends, is_trying=limit.tried_at is not None)


def get_concurrency(
    connection: Connection, gate_id: str, *, now: datetime | None = None
) -> ConcurrencyState | None:
    """The concurrency of a gate; None if no row was sent through it."""
    lease_now = now or lease_time(connection)
    query = select(concurrency_limits.c.state).where(concurrency_limits.c.gate_id == gate_id)
    limit = limit_of(connection.execute(query).scalar_one_or_none())
    if limit is None:
        return None
    in_flight = connection.execute(
        select(func.coalesce(func.sum(concurrency_shares.c.in_flight), 0)).where(
            concurrency_shares.c.gate_id == gate_id, concurrency_shares.c.expires_at > lease_now
        )
    ).scalar_one()
    return ConcurrencyState(in_flight=int(in_flight), limit=limit.slots, ceiling=limit.ceiling)


def _state_of(limit: AdaptiveLimit) -> dict[str, Any]:
    """A limit as JSON; its only texts are times."""
    values = asdict(limit)
    return {name: v.isoformat() if isinstance(v, datetime) else v for name, v in values.items()}


def limit_of(state: Mapping[str, Any] | None) -> AdaptiveLimit | None:
    """The limit that ``_state_of`` stored; None without one, or if another version stored other fields."""
    if state is None or set(state) != _LIMIT_FIELDS:
        return None
    values: dict[str, Any] = {
        name: datetime.fromisoformat(value) if isinstance(value, str) else value
        for name, value in state.items()
    }
    return AdaptiveLimit(**values)


def _locked_line(connection: Connection, gate_id: str) -> Mapping[Any, Any]:
    """The limit of a gate, created if it does not exist, and locked until the transaction ends."""
    query = select(concurrency_limits).where(concurrency_limits.c.gate_id == gate_id).with_for_update()
    line = connection.execute(query).mappings().one_or_none()
    if line is None:
        insert = insert_into(connection, concurrency_limits).values(gate_id=gate_id)
        connection.execute(insert.on_conflict_do_nothing())
        line = connection.execute(query).mappings().one()
    return line


def _other_workers(
    connection: Connection, gate_id: str, owner: str, lease_now: datetime
) -> Sequence[Mapping[Any, Any]]:
    """The shares of the other workers; expired shares are deleted."""
    shares = concurrency_shares
    connection.execute(shares.delete().where(shares.c.gate_id == gate_id, shares.c.expires_at <= lease_now))
    query = select(shares).where(shares.c.gate_id == gate_id, shares.c.owner != owner)
    return connection.execute(query.order_by(shares.c.owner)).mappings().all()


def _slots(
    limit: AdaptiveLimit,
    others: Sequence[Mapping[Any, Any]],
    owner: str,
    request: ConcurrencyRequest,
    now: datetime,
) -> int:
    """The worker's part of the slots in proportion to its wants, as far as other workers leave it."""
    wants = sorted([(owner, request.wants), *((other["owner"], other["wants"]) for other in others)])
    turn = int(now.timestamp() // TURN_S)
    index = wants.index((owner, request.wants))
    fair = divide(limit.slots, [want for _, want in wants], turn=turn)[index]
    used = sum(max(other["slots"], other["in_flight"]) for other in others)
    return max(0, min(fair, limit.slots - used))


def _write_share(
    connection: Connection,
    gate_id: str,
    owner: str,
    request: ConcurrencyRequest,
    slots: int,
    lease_now: datetime,
) -> None:
    values = {
        "slots": slots,
        "in_flight": request.in_flight,
        "wants": request.wants,
        "expires_at": lease_now + timedelta(seconds=WORKER_TIMEOUT_S),
    }
    connection.execute(
        insert_into(connection, concurrency_shares)
        .values(gate_id=gate_id, owner=owner, **values)
        .on_conflict_do_update(index_elements=["gate_id", "owner"], set_=values)
    )


def _sends(
    line: Mapping[Any, Any], request: ConcurrencyRequest, now: datetime
) -> tuple[int | None, dict[str, Any]]:
    """How many rows the worker may send by the rate limits, and the new levels of the buckets."""
    rate_limits = request.rate_limits
    if not rate_limits.are_stated:
        return None, {}
    passed_s = (now - line["filled_at"]).total_seconds() if line["filled_at"] else 0.0
    requests = tokens = None
    if rate_limits.requests_per_minute is not None:
        returned = request.unsent - request.more_requests
        requests = level(line["requests"], rate_limits.requests_per_minute, passed_s=passed_s) + returned
    if rate_limits.tokens_per_minute is not None:
        returned = request.unsent * request.unsent_tokens - request.more_tokens
        tokens = level(line["tokens"], rate_limits.tokens_per_minute, passed_s=passed_s) + returned
    sends = min(request.asks, rows_within(requests, tokens, row_tokens=request.row_tokens) or 0)
    levels: dict[str, Any] = {"filled_at": now}
    if requests is not None:
        levels["requests"] = requests - sends
    if tokens is not None:
        levels["tokens"] = tokens - sends * request.row_tokens
    return sends, levels


class Concurrency(Group):
    """``ledger.concurrency``: how many rows may be in flight at a gate."""

    get: Final = read(get_concurrency)
    sync: Final = write(sync_concurrency)
