"""Steps of a claim, one row at a time, for tests of what follows a claim."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from opencode_tasks import Hold
from opencode_tasks.ledger import Lease, Ledger, budgets
from opencode_tasks.ledger.attempts import attempt_id_of, write_attempts
from opencode_tasks.ledger.gate_admission import admit, closed_gate


def begin_attempt(
    ledger: Ledger,
    lease: Lease,
    run_id: str,
    row_id: str,
    *,
    now: datetime,
    attempt: int = 1,
    gate_id: str | None = None,
    reserve_pico: int = 0,
) -> str:
    """Write an attempt as started under a lease; returns its id."""
    attempt_id = attempt_id_of(run_id, row_id, lease, attempt)
    values = {
        "attempt_id": attempt_id,
        "run_id": run_id,
        "row_id": row_id,
        "row_key": lease.row_key,
        "attempt": attempt,
        "fence": lease.fence,
        "owner": lease.owner,
        "started_at": now,
        "node_id": "n",
        "host": "h",
        "backend": "server",
        "data_dir": None,
        "gate_id": gate_id,
        "reserved_pico": reserve_pico,
        "max_call_pico": 0,
    }

    def write(connection: Connection) -> None:
        assert budgets.try_reserve(connection, run_id, reserve_pico)
        write_attempts(connection, [values])

    ledger._database.write(write)
    return attempt_id


def admitted(
    ledger: Ledger, gate_id: str, run_id: str, row_id: str, *, now: datetime, has_failed: bool = False
) -> Hold | None:
    """Whether a gate lets a row pass: None if so, through a half-open gate as its probe."""

    def ask(connection: Connection) -> Hold | None:
        if closed_gate(connection, gate_id) is None:
            return None
        return admit(
            connection,
            gate_id,
            run_id=run_id,
            row_id=row_id,
            owner="owner",
            now=now,
            lease_now=now,
            probe_s=60,
            has_failed=has_failed,
        )

    return ledger._database.write(ask)
