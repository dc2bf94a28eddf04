"""Queue of a run's open rows: claim rows, keep their leases, end their attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from opencode_tasks.ledger.claim import claim
from opencode_tasks.ledger.finish import EndedAttempt, end_attempts
from opencode_tasks.ledger.gates import GateObservation, record_completions
from opencode_tasks.ledger.leased_rows import claim_row
from opencode_tasks.ledger.leases import break_lease, extend, heartbeat, lease_owners, release, silent_owners
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.run_state import run_state


def end(
    connection: Connection, ends: Sequence[EndedAttempt], observations: Sequence[GateObservation] = ()
) -> list[bool]:
    """End attempts by ``end_attempts``, and record answers at their gate, which must be the same for all."""
    if observations:
        record_completions(connection, observations, ends[-1].now)
    return end_attempts(connection, ends)


class Queue(Group):
    """``ledger.queue``: open rows and their leases, from the claim to the outcome."""

    state: Final = read(run_state)
    claim: Final = write(claim)
    claim_row: Final = write(claim_row)
    heartbeat: Final = write(heartbeat)
    extend: Final = write(extend)
    owners: Final = read(lease_owners)
    silent_owners: Final = read(silent_owners)
    release: Final = write(release)
    break_lease: Final = write(break_lease)
    end: Final = write(end)
