"""Queue of a run's open rows: claim rows, keep their leases, finish them or leave them to wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from opencode_tasks.domain.records import RowStatus
from opencode_tasks.ledger.bulk_finish import finish_rows
from opencode_tasks.ledger.claim import claim
from opencode_tasks.ledger.clock import times
from opencode_tasks.ledger.finish import FinishedRow, finish_row, wait_row
from opencode_tasks.ledger.gates import GateObservation, record_completions
from opencode_tasks.ledger.leases import (
    Lease,
    LeaseLostError,
    acquire,
    break_lease,
    current_lease,
    heartbeat,
    lease_owners,
    release,
)
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.reuse import copy_outcome, row_with_source
from opencode_tasks.ledger.run_state import run_state


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

    Answers are copied by the rule of ``reuse_answers``; a failure under the same key in the same run
    is copied too. Raises LookupError if there is no such row.
    """
    row_key = row_with_source(connection, run_id, row_id)["row_key"]
    lease, (now, lease_now) = None, times(connection, now)
    if current_lease(connection, row_key, lease_now) is None:
        acquired = acquire(connection, [row_key], owner=owner, lease_now=lease_now, lease_s=lease_s)
        lease = acquired.get(row_key)
    # Read under the lease: no other worker can finish a row with this key now.
    row = row_with_source(connection, run_id, row_id)
    is_open = row["status"] == "open"
    if lease is None and is_open:
        leased_by, expires_at = current_lease(connection, row_key, lease_now) or ("", lease_now)
        return AlreadyLeased(owner=leased_by, expires_at=expires_at)
    if lease is not None and is_open and row["source_status"] is None:
        return lease
    if lease is not None:
        release(connection, lease)
    if not is_open:
        return AlreadyFinished(status=row["status"], reused=row["reused"])
    source_run_id, source_row_id = row["source_run_id"], row["source_row_id"]
    copy_outcome(
        connection, run_id, row_id, source_run_id=source_run_id, source_row_id=source_row_id, now=now
    )
    return AlreadyFinished(status=row["source_status"], reused=True)


class Queue(Group):
    """``ledger.queue``: open rows and their leases, from the claim to the outcome."""

    state: Final = read(run_state)
    claim: Final = write(claim)
    claim_row: Final = write(claim_row)
    heartbeat: Final = write(heartbeat)
    owners: Final = read(lease_owners)
    release: Final = write(release)
    break_lease: Final = write(break_lease)
    wait: Final = write(wait_row)

    def finish(self, row: FinishedRow) -> None:
        """Finish a row and its attempt, and release its lease.

        The tokens, cost and attempts of the row are those of all its attempts. Open rows of the run
        with the same key receive the outcome as reused. Raises LeaseLostError if another owner has
        the lease now; the attempt is recorded then, and the row is not changed.
        """
        if not self.database.write(lambda connection: finish_row(connection, row)):
            raise LeaseLostError.of(row.lease)

    def finish_many(
        self, finished: Sequence[FinishedRow], observations: Sequence[GateObservation]
    ) -> list[bool]:
        """Finish completed rows as ``finish`` does, and record their ends at their gate.

        The observations must be of one gate. Returns for each row, in order, False if its lease was
        lost: its attempt is recorded then, and the row is not changed.
        """

        def work(connection: Connection) -> list[bool]:
            record_completions(connection, observations, finished[-1].now)
            return finish_rows(connection, finished)

        return self.database.write(work) if finished else []
