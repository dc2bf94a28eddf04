"""What a worker's pull leaves behind and asks, for tests of what comes after, one row at a time."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from opencode_tasks.ledger import GateHold, Lease, Ledger, budgets, gates
from opencode_tasks.ledger import attempts as trials


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
    """Write an attempt as begun under a lease that is held; its id."""
    claimed = trials.attempt_id(run_id, row_id, lease, attempt)
    values = {
        "attempt_id": claimed,
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
        "call_most_pico": 0,
    }

    def write(connection: Connection) -> None:
        assert budgets.fits(connection, run_id, reserve_pico)
        trials.write_begun(connection, [values])

    ledger._database.write(write)
    return claimed


def admitted(
    ledger: Ledger, gate_id: str, run_id: str, row_id: str, *, now: datetime, is_troubled: bool = False
) -> GateHold | None:
    """None where a gate lets the row pass, a closed one as its probe."""

    def ask(connection: Connection) -> GateHold | None:
        if gates.closed_line(connection, gate_id) is None:
            return None
        return gates.admit(
            connection,
            gate_id,
            run_id=run_id,
            row_id=row_id,
            owner="owner",
            now=now,
            probe_s=60,
            is_troubled=is_troubled,
        )

    return ledger._database.write(ask)
