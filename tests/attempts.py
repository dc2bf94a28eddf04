"""Start and end of a single attempt, for tests of the ledger."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from opencode_tasks import Hold
from opencode_tasks.domain.records import Answer, AttemptRecord
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.ledger import EndedAttempt, Lease, Ledger, budgets, completed, failed, waiting
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


def finish(
    ledger: Ledger,
    lease: Lease,
    attempt_id: str,
    end: Answer | OpenCodeError,
    record: AttemptRecord,
    *,
    now: datetime,
) -> bool:
    """Finish a row by its answer or its error; False if its lease was lost."""
    return ledger.queue.end([finished(lease, attempt_id, end, record, now=now)])[0]


def finished(
    lease: Lease, attempt_id: str, end: Answer | OpenCodeError, record: AttemptRecord, *, now: datetime
) -> EndedAttempt:
    """The end of an attempt by an answer or an error after which the row is not sent again."""
    error = end if isinstance(end, OpenCodeError) else None
    return EndedAttempt(
        lease=lease,
        attempt_id=attempt_id,
        record=record,
        now=now,
        error=error,
        row=completed(end) if isinstance(end, Answer) else failed(end, record),
    )


def wait(
    ledger: Ledger,
    lease: Lease,
    attempt_id: str,
    error: OpenCodeError,
    record: AttemptRecord,
    *,
    now: datetime,
    until: datetime | None,
) -> bool:
    """Leave a row open until a time after an error; False if its lease was lost."""
    end = EndedAttempt(
        lease=lease, attempt_id=attempt_id, record=record, now=now, error=error, row=waiting(error, until)
    )
    return ledger.queue.end([end])[0]


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
