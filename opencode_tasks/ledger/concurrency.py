"""The pace of a gate, shared by all workers: one line for the gate and one for each worker at it.

A worker comes by about once a second, and at once when it was refused: it tells what became of its
rows and is given its share of the slots. A share is the worker's until it comes by again, so that
all of them together never exceed the limit; one that stays away loses it after a while.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from opencode_tasks.domain.concurrency import TURN_S, AdaptiveLimit, claimed, cut, divide, grown
from opencode_tasks.domain.rate_limits import RateLimits, level, rows_within
from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.schema import pace_shares, paces

# A worker that has not come by for so long is taken for dead.
AWAY_S = 15.0
# One that has nothing more to send may begin another batch in a moment.
LEAVES_S = 2.0

_KNOWN = [one.name for one in fields(AdaptiveLimit)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyRequest:
    """What a worker tells of itself since it last came by.

    It has ``in_flight`` rows and could have ``wants``; ``is_pressed`` says that it had to keep rows
    back, ``is_leaving`` that it has none any more, though it may soon begin others. ``answers`` and
    ``refusals`` are when the rows were sent that were answered and refused; ``refused_of`` of its rows
    were in flight then, and for ``rest_s`` the provider wants none. ``start`` rows may be in flight
    where nothing is known.

    Of the rows it was allowed to send by ``rate_limits`` it did not send ``unsent``, each of
    ``unsent_tokens``; the others took ``more_requests`` and ``more_tokens`` than was set aside. It
    would like to send ``asks``, each of ``row_tokens``.
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
    """What a worker may do until it comes by again: rows in flight, and rows sent (None: any number).

    ``is_trying`` says that the limit goes beyond what the provider is known to take.
    """

    slots: int
    sends: int | None
    is_trying: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyState:
    """A gate's pace as it stands: ``in_flight`` of at most ``limit`` rows, in all workers together.

    ``ceiling`` is None where nothing was refused yet; a ``limit`` above it is being tried.
    """

    in_flight: int
    limit: int
    ceiling: int | None


def sync_concurrency(
    connection: Connection, gate_id: str, owner: str, told: ConcurrencyRequest, *, now: datetime
) -> Allocation:
    """Take in what a worker tells and give it its share."""
    line = _line(connection, gate_id, told.start, now)
    others = _others(connection, gate_id, owner, now)
    pace = claimed(AdaptiveLimit(**{name: line[name] for name in _KNOWN}), start=told.start, now=now)
    if told.refusals:
        in_flight = told.refused_of + sum(other["in_flight"] for other in others)
        pace = cut(pace, told.refusals, in_flight=in_flight, rest_s=told.rest_s, now=now)
    pace = grown(pace, told.answers, is_pressed=told.is_pressed, now=now)
    share = _share(pace, others, owner, told, now)
    sends, levels = _sends(line, told, now)
    connection.execute(paces.update().where(paces.c.gate_id == gate_id).values(**asdict(pace), **levels))
    values = {
        "share": share,
        "in_flight": told.in_flight,
        "wants": told.wants,
        "until": now + timedelta(seconds=LEAVES_S if told.is_leaving else AWAY_S),
    }
    # One that leaves has its share kept for it for a moment: its next batch is about to begin.
    changed = {name: values[name] for name in values if name != "share" or not told.is_leaving}
    connection.execute(
        insert_into(connection, pace_shares)
        .values(gate_id=gate_id, owner=owner, **values)
        .on_conflict_do_update(index_elements=["gate_id", "owner"], set_=changed)
    )
    return Allocation(slots=share, sends=sends, is_trying=pace.tried_at is not None)


def read(connection: Connection, gate_id: str, now: datetime) -> ConcurrencyState | None:
    """The pace as it stands, None where no row was ever sent through the gate."""
    line = connection.execute(select(paces).where(paces.c.gate_id == gate_id)).mappings().one_or_none()
    if line is None:
        return None
    in_flight = connection.execute(
        select(func.coalesce(func.sum(pace_shares.c.in_flight), 0)).where(
            pace_shares.c.gate_id == gate_id, pace_shares.c.until > now
        )
    ).scalar_one()
    pace = AdaptiveLimit(**{name: line[name] for name in _KNOWN})
    return ConcurrencyState(in_flight=int(in_flight), limit=pace.slots, ceiling=pace.ceiling)


def _line(connection: Connection, gate_id: str, start: int, now: datetime) -> Mapping[Any, Any]:
    """The gate's line, locked, made where there is none."""
    query = select(paces).where(paces.c.gate_id == gate_id).with_for_update()
    line = connection.execute(query).mappings().one_or_none()
    if line is None:
        first = asdict(claimed(None, start=start, now=now))
        connection.execute(
            insert_into(connection, paces).values(gate_id=gate_id, **first).on_conflict_do_nothing()
        )
        line = connection.execute(query).mappings().one()
    return line


def _others(connection: Connection, gate_id: str, owner: str, now: datetime) -> Sequence[Mapping[Any, Any]]:
    """The other workers that are there; those that are gone are forgotten."""
    connection.execute(
        pace_shares.delete().where(pace_shares.c.gate_id == gate_id, pace_shares.c.until <= now)
    )
    query = select(pace_shares).where(pace_shares.c.gate_id == gate_id, pace_shares.c.owner != owner)
    return connection.execute(query.order_by(pace_shares.c.owner)).mappings().all()


def _share(
    pace: AdaptiveLimit,
    others: Sequence[Mapping[Any, Any]],
    owner: str,
    told: ConcurrencyRequest,
    now: datetime,
) -> int:
    """The worker's part of the slots by what each could use, as far as the others do not hold them yet."""
    wants = sorted([(owner, told.wants), *((other["owner"], other["wants"]) for other in others)])
    turn = int(now.timestamp() // TURN_S)
    fair = divide(pace.slots, [want for _, want in wants], turn=turn)[wants.index((owner, told.wants))]
    held = sum(max(other["share"], other["in_flight"]) for other in others)
    return max(0, min(fair, pace.slots - held))


def _sends(
    line: Mapping[Any, Any], told: ConcurrencyRequest, now: datetime
) -> tuple[int | None, dict[str, Any]]:
    """How many rows the worker may send by the rates, and what the buckets hold then."""
    rate_limits = told.rate_limits
    if not rate_limits.are_stated:
        return None, {}
    passed_s = (now - line["filled_at"]).total_seconds() if line["filled_at"] else 0.0
    requests = tokens = None
    if rate_limits.requests_per_minute is not None:
        given_back = told.unsent - told.more_requests
        requests = level(line["requests"], rate_limits.requests_per_minute, passed_s=passed_s) + given_back
    if rate_limits.tokens_per_minute is not None:
        given_back = told.unsent * told.unsent_tokens - told.more_tokens
        tokens = level(line["tokens"], rate_limits.tokens_per_minute, passed_s=passed_s) + given_back
    sends = min(told.asks, rows_within(requests, tokens, row_tokens=told.row_tokens) or 0)
    left: dict[str, Any] = {"filled_at": now}
    if requests is not None:
        left["requests"] = requests - sends
    if tokens is not None:
        left["tokens"] = tokens - sends * told.row_tokens
    return sends, left
