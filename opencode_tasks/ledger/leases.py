"""Leases: the exclusive right to process a row, one for each row_key across all runs of the ledger.

The fencing number of a lease increases with each new owner, so that a commit by an owner whose lease
expired is recognized (https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html).
``lease_now`` is a time of the clock of the leases (``ledger/clock.py``). A ``now`` of None means now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, func, literal_column, select

from opencode_tasks.ledger.clock import lease_time
from opencode_tasks.ledger.schema import leases, rows
from opencode_tasks.ledger.upsert import Upsert
from opencode_tasks.system.process_identity import owner_state

EXPIRED = datetime(1970, 1, 1, tzinfo=UTC)
# A lease that expires this many lease times after its last heartbeat was extended by another process.
EXTENDED = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to process the row with this key until ``expires_at``, which heartbeats move."""

    row_key: str
    owner: str
    fence: int
    expires_at: datetime


class LeaseLostError(Exception):
    """Another owner has the lease now, so a commit under the old one was refused.

    The usage of the attempt is recorded. The row belongs to the new owner.
    """

    def __init__(self, row_key: str, owner: str, fence: int) -> None:
        super().__init__(row_key, owner, fence)
        self.row_key = row_key
        self.owner = owner
        self.fence = fence

    @classmethod
    def of(cls, lease: Lease) -> LeaseLostError:
        """The error for a lease."""
        return cls(lease.row_key, lease.owner, lease.fence)

    def __str__(self) -> str:
        return f"{self.owner} has lost lease {self.fence} on row key {self.row_key} to another owner"


def _acquire_expired(insert: Any) -> Any:
    return insert.on_conflict_do_update(
        index_elements=["row_key"],
        set_={
            "owner": insert.excluded.owner,
            "fence": leases.c.fence + literal_column("1"),
            "expires_at": insert.excluded.expires_at,
            "heartbeat_at": insert.excluded.heartbeat_at,
        },
        where=leases.c.expires_at <= insert.excluded.heartbeat_at,
    )


_ACQUIRE = Upsert(leases, leases.c.keys(), _acquire_expired)
_ACQUIRED = select(leases.c.row_key, leases.c.fence).where(
    leases.c.row_key.in_(bindparam("keys", expanding=True)),
    leases.c.owner == bindparam("of_owner"),
    leases.c.heartbeat_at == bindparam("since"),
)


def acquire(
    connection: Connection, row_keys: Sequence[str], *, owner: str, lease_now: datetime, lease_s: float
) -> dict[str, Lease]:
    """Acquire the leases on those of the keys that have none; the keys must be distinct.

    An expired lease is extended instead if its owner may still work on the row. Returns the acquired leases
    by key. The owner must not have one of them already.
    """
    if not row_keys:
        return {}
    expired = connection.execute(_EXPIRED_OWNERS, {"keys": list(row_keys), "lease_now": lease_now}).all()
    for found in expired:
        if _may_be_at_work(found.owner, found.expires_at - found.heartbeat_at, lease_s):
            extend(connection, found.owner, lease_s=lease_s, now=lease_now)
    until = lease_now + timedelta(seconds=lease_s)
    values = [
        {"row_key": key, "owner": owner, "fence": 1, "expires_at": until, "heartbeat_at": lease_now}
        for key in row_keys
    ]
    _ACQUIRE.execute(connection, values)
    # The acquired leases are those that this owner has since ``lease_now``.
    found = connection.execute(_ACQUIRED, {"keys": list(row_keys), "of_owner": owner, "since": lease_now})
    return {
        lease.row_key: Lease(row_key=lease.row_key, owner=owner, fence=lease.fence, expires_at=until)
        for lease in found
    }


_EXPIRED_OWNERS = (
    select(
        leases.c.owner,
        func.max(leases.c.expires_at, type_=leases.c.expires_at.type).label("expires_at"),
        func.max(leases.c.heartbeat_at, type_=leases.c.heartbeat_at.type).label("heartbeat_at"),
    )
    .where(
        leases.c.row_key.in_(bindparam("keys", expanding=True)),
        leases.c.owner.is_not(None),
        leases.c.expires_at <= bindparam("lease_now"),
    )
    .group_by(leases.c.owner)
)


def _may_be_at_work(owner: str, valid_for: timedelta, lease_s: float) -> bool:
    """Whether the owner of an expired lease may still work on its row, ``valid_for`` after its heartbeat.

    A stopped process does not know yet that time has passed: its prompts may be in flight. One that runs
    may have been continued a moment ago, and gets one more lease time for a heartbeat.
    """
    state = owner_state(owner)
    if state == "running":
        return valid_for.total_seconds() < EXTENDED * lease_s
    return state in ("stopped", "at_work")


_LOCKED_LEASE = (
    select(leases.c.owner, leases.c.expires_at)
    .where(leases.c.row_key == bindparam("of_key"))
    .with_for_update()
)


def current_lease(connection: Connection, row_key: str, lease_now: datetime) -> tuple[str, datetime] | None:
    """Owner and expiry of the unexpired lease on a key; None without one."""
    found = connection.execute(_LOCKED_LEASE, {"of_key": row_key}).one_or_none()
    return None if found is None or found.expires_at <= lease_now else (found.owner or "", found.expires_at)


_RELEASE = (
    leases.update()
    .where(
        leases.c.row_key == bindparam("of_key"),
        leases.c.owner == bindparam("of_owner"),
        leases.c.fence == bindparam("of_fence"),
    )
    .values(owner=None, expires_at=EXPIRED)
)


def release_all(connection: Connection, owned: Sequence[Lease]) -> None:
    """Release leases; one that was lost is not changed."""
    if not owned:
        return
    keys = [{"of_key": lease.row_key, "of_owner": lease.owner, "of_fence": lease.fence} for lease in owned]
    connection.execute(_RELEASE, keys)


def release(connection: Connection, lease: Lease) -> None:
    """Release a lease; one that was lost is not changed."""
    release_all(connection, [lease])


def heartbeat(connection: Connection, owner: str, *, lease_s: float, now: datetime | None = None) -> None:
    """Extend all leases of an owner to ``lease_s`` seconds from now."""
    lease_now = now or lease_time(connection)
    connection.execute(
        leases.update()
        .where(leases.c.owner == owner)
        .values(expires_at=lease_now + timedelta(seconds=lease_s), heartbeat_at=lease_now)
    )


def extend(connection: Connection, owner: str, *, lease_s: float, now: datetime | None = None) -> None:
    """Extend all leases of another owner, which sends no heartbeat, to ``lease_s`` seconds from now."""
    lease_now = now or lease_time(connection)
    until = lease_now + timedelta(seconds=lease_s)
    connection.execute(leases.update().where(leases.c.owner == owner).values(expires_at=until))


def silent_owners(
    connection: Connection, run_id: str, *, silent_s: float, now: datetime | None = None
) -> list[str]:
    """The owners of leases, expired or not, on keys of a run's open rows without a heartbeat for a time."""
    since = (now or lease_time(connection)) - timedelta(seconds=silent_s)
    query = (
        select(leases.c.owner)
        .distinct()
        .join(rows, rows.c.row_key == leases.c.row_key)
        .where(rows.c.run_id == run_id, rows.c.status == "open", leases.c.heartbeat_at <= since)
    )
    return [owner for owner in connection.execute(query).scalars() if owner]


def lease_owners(connection: Connection, run_id: str, *, now: datetime | None = None) -> list[str]:
    """The owners of unexpired leases on keys of a run's open rows."""
    lease_now = now or lease_time(connection)
    query = (
        select(leases.c.owner)
        .distinct()
        .join(rows, rows.c.row_key == leases.c.row_key)
        .where(rows.c.run_id == run_id, rows.c.status == "open", leases.c.expires_at > lease_now)
    )
    return [owner for owner in connection.execute(query).scalars() if owner]


def break_lease(connection: Connection, row_key: str, owner: str) -> None:
    """Release the lease of an owner that is known to be dead; the lease of another owner is not changed."""
    connection.execute(
        leases.update()
        .where(leases.c.row_key == row_key, leases.c.owner == owner)
        .values(owner=None, expires_at=EXPIRED)
    )
