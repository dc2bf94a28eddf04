"""Who may buy a row: one lease per row_key across all runs of the ledger, with a fencing number.

The number grows each time the lease changes hands, so that a commit by a holder who lost it is
recognised (https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, literal, literal_column, select

from opencode_tasks.domain.records import RowStatus
from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.reuse import copy_from, look_up
from opencode_tasks.ledger.schema import leases, rows
from opencode_tasks.ledger.upsert import Upsert

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to buy the row with this key until ``until``, which heartbeats move."""

    row_key: str
    owner: str
    fence: int
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The row needs no attempt: it has ended, now or before; ``reused`` says that it was copied."""

    status: RowStatus
    reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Another owner, or another row of the same one, holds the key until ``until``."""

    owner: str
    until: datetime


class LeaseLostError(Exception):
    """The lease was given to another since; what was asked under it is refused.

    What an attempt bought is recorded all the same. The row is the new holder's: leave it.
    """

    def __init__(self, row_key: str, owner: str, fence: int) -> None:
        super().__init__(row_key, owner, fence)
        self.row_key = row_key
        self.owner = owner
        self.fence = fence

    def __str__(self) -> str:
        return (
            f"{self.owner} no longer holds lease {self.fence} on row key {self.row_key}; leave this row alone"
        )


def lost(lease: Lease) -> LeaseLostError:
    """The error for this lease."""
    return LeaseLostError(lease.row_key, lease.owner, lease.fence)


def take(
    connection: Connection, run_id: str, row_id: str, *, owner: str, now: datetime, lease_s: float
) -> Lease | Taken | Busy:
    """Take the lease on a row's key, unless the row has ended or can have an answer that exists."""
    key = select(rows.c.row_key).where(rows.c.run_id == run_id, rows.c.row_id == row_id).scalar_subquery()
    lease = _seize(connection, run_id, row_id, owner=owner, now=now, until=now + timedelta(seconds=lease_s))
    # After the lease is ours, nobody else can finish a row of this key.
    found = look_up(connection, run_id, row_id)
    if lease is None:
        if found["status"] != "open":
            return Taken(status=found["status"], reused=found["reused"])
        held = connection.execute(select(leases).where(leases.c.row_key == key)).mappings().one()
        return Busy(owner=held["owner"] or "", until=held["until"])
    if found["status"] != "open":
        release(connection, lease)
        return Taken(status=found["status"], reused=found["reused"])
    if found["source_status"] is None:
        return lease
    copy_from(
        connection,
        run_id,
        row_id,
        source_run_id=found["source_run_id"],
        source_row_id=found["source_row_id"],
        now=now,
    )
    release(connection, lease)
    return Taken(status=found["source_status"], reused=True)


def _seize(
    connection: Connection, run_id: str, row_id: str, *, owner: str, now: datetime, until: datetime
) -> Lease | None:
    wanted = select(
        rows.c.row_key,
        literal(owner, leases.c.owner.type),
        literal(1, leases.c.fence.type),
        literal(until, leases.c.until.type),
        literal(now, leases.c.heartbeat.type),
    ).where(rows.c.run_id == run_id, rows.c.row_id == row_id)
    insert = insert_into(connection, leases).from_select(
        ["row_key", "owner", "fence", "until", "heartbeat"], wanted
    )
    statement = _take_free(insert).returning(leases.c.row_key, leases.c.fence)
    got = connection.execute(statement).one_or_none()
    return None if got is None else Lease(row_key=got.row_key, owner=owner, fence=got.fence, until=until)


def _take_free(insert: Any) -> Any:
    return insert.on_conflict_do_update(
        index_elements=["row_key"],
        set_={
            "owner": insert.excluded.owner,
            "fence": leases.c.fence + literal_column("1"),
            "until": insert.excluded.until,
            "heartbeat": insert.excluded.heartbeat,
        },
        where=leases.c.until <= insert.excluded.heartbeat,
    )


_SEIZE = Upsert(leases, leases.c.keys(), _take_free)
_SEIZED = select(leases.c.row_key, leases.c.fence).where(
    leases.c.row_key.in_(bindparam("keys", expanding=True)),
    leases.c.owner == bindparam("of_owner"),
    leases.c.heartbeat == bindparam("since"),
)
_GIVE_BACK = (
    leases.update()
    .where(
        leases.c.row_key == bindparam("of_key"),
        leases.c.owner == bindparam("of_owner"),
        leases.c.fence == bindparam("of_fence"),
    )
    .values(owner=None, until=LONG_AGO)
)


def seize(
    connection: Connection, row_keys: Sequence[str], *, owner: str, now: datetime, until: datetime
) -> dict[str, Lease]:
    """The leases on those of the keys, each named once, that nobody holds."""
    if not row_keys:
        return {}
    values = [
        {"row_key": key, "owner": owner, "fence": 1, "until": until, "heartbeat": now} for key in row_keys
    ]
    _SEIZE.execute(connection, values)
    # Which of them were free shows afterwards: they are the owner's since this moment.
    got = connection.execute(_SEIZED, {"keys": list(row_keys), "of_owner": owner, "since": now})
    return {row.row_key: Lease(row_key=row.row_key, owner=owner, fence=row.fence, until=until) for row in got}


def give_back(connection: Connection, held: Sequence[Lease]) -> None:
    """Give leases back, each if it is still held."""
    if not held:
        return
    mine = [{"of_key": lease.row_key, "of_owner": lease.owner, "of_fence": lease.fence} for lease in held]
    connection.execute(_GIVE_BACK, mine)


def heartbeat(connection: Connection, owner: str, *, now: datetime, lease_s: float) -> None:
    """Extend every lease that the owner still holds."""
    connection.execute(
        leases.update()
        .where(leases.c.owner == owner)
        .values(until=now + timedelta(seconds=lease_s), heartbeat=now)
    )


def release(connection: Connection, lease: Lease) -> None:
    """Give the lease back; nothing happens where it is no longer held."""
    give_back(connection, [lease])


def owners(connection: Connection, run_id: str, now: datetime) -> list[str]:
    """Who holds keys of a run's open rows."""
    query = (
        select(leases.c.owner.distinct())
        .join(rows, rows.c.row_key == leases.c.row_key)
        .where(rows.c.run_id == run_id, rows.c.status == "open", leases.c.until > now)
    )
    return [owner for owner in connection.execute(query).scalars() if owner]


def break_lease(connection: Connection, row_key: str, owner: str) -> None:
    """Free a key whose owner is known to be dead; nothing happens where another holds it."""
    connection.execute(
        leases.update()
        .where(leases.c.row_key == row_key, leases.c.owner == owner)
        .values(owner=None, until=LONG_AGO)
    )


def is_current(connection: Connection, lease: Lease) -> bool:
    """Whether nobody took the key since; until the transaction ends nobody can."""
    fence = connection.execute(
        select(leases.c.fence).where(leases.c.row_key == lease.row_key).with_for_update()
    ).scalar_one_or_none()
    return fence == lease.fence
