"""Lease rows of a run, unless they have ended or may copy an outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, select

from opencode_tasks.domain.records import RowStatus
from opencode_tasks.ledger.clock import Times, times
from opencode_tasks.ledger.leases import Lease, acquire, current_lease, release, release_all
from opencode_tasks.ledger.reuse import copy_outcomes, sources_of
from opencode_tasks.ledger.schema import rows


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyFinished:
    """The row needs no attempt, since it has ended; ``reused`` says that its outcome is a copy."""

    status: RowStatus
    reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyLeased:
    """The key of the row is leased until ``expires_at``, by another owner or for another row."""

    owner: str
    expires_at: datetime


def lease_rows(
    connection: Connection, run_id: str, row_keys: Mapping[str, str], *, owner: str, lease_s: float, at: Times
) -> tuple[dict[str, Lease], int]:
    """Lease rows of a run; ``row_keys`` has their keys by their ids. The owner must not have one already.

    Of rows with the same key only the first is leased. Those that may copy an outcome copy it: answers by
    the rule of ``reuse_answers``, and a failure under the same key in the same run. Returns the leases by
    the ids of the other rows, and the number of copies.
    """
    first: dict[str, str] = {}
    for row_id, row_key in row_keys.items():
        first.setdefault(row_key, row_id)
    acquired = acquire(connection, list(first), owner=owner, lease_now=at.lease_now, lease_s=lease_s)
    leased = {row_id: acquired[row_key] for row_key, row_id in first.items() if row_key in acquired}
    if not leased:
        return {}, 0
    # Read under the leases: no other worker can finish a row with one of these keys now.
    sources = sources_of(connection, run_id, list(leased))
    copy_outcomes(connection, run_id, [(row_id, *source, at.now) for row_id, source in sources.items()])
    release_all(connection, [leased.pop(row_id) for row_id in sources])
    return leased, len(sources)


_ROW = select(rows.c.row_key, rows.c.status, rows.c.reused).where(
    rows.c.run_id == bindparam("of_run"), rows.c.row_id == bindparam("of_row")
)


def claim_row(
    connection: Connection,
    run_id: str,
    row_id: str,
    *,
    owner: str,
    lease_s: float,
    now: datetime | None = None,
) -> Lease | AlreadyFinished | AlreadyLeased:
    """Lease one row for ``lease_s`` seconds, unless it has ended or may copy an outcome.

    Raises LookupError if there is no such row.
    """
    of_row = {"of_run": run_id, "of_row": row_id}
    row_key = connection.execute(_ROW, of_row).scalar_one_or_none()
    if row_key is None:
        raise LookupError(f"the ledger has no row {row_id!r} in run {run_id!r}")
    at = times(connection, now)
    lease = None
    if current_lease(connection, row_key, at.lease_now) is None:
        keys = {row_id: row_key}
        leased, _ = lease_rows(connection, run_id, keys, owner=owner, lease_s=lease_s, at=at)
        lease = leased.get(row_id)
    row = connection.execute(_ROW, of_row).one()
    if row.status == "open" and lease is not None:
        return lease
    if row.status == "open":
        leased_by, expires_at = current_lease(connection, row_key, at.lease_now) or ("", at.lease_now)
        return AlreadyLeased(owner=leased_by, expires_at=expires_at)
    if lease is not None:
        release(connection, lease)
    return AlreadyFinished(status=row.status, reused=row.reused)
