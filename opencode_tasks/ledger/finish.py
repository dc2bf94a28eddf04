"""Finish one row, or leave it open to wait. A commit under a lost lease is refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from opencode_tasks.domain.records import Answer, AttemptRecord
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.ledger import outcome_values as outcomes
from opencode_tasks.ledger.attempts import write_end
from opencode_tasks.ledger.leases import Lease, LeaseLostError, is_current, release
from opencode_tasks.ledger.outcome_values import Outcome
from opencode_tasks.ledger.reuse import copy_to_equal_rows
from opencode_tasks.ledger.schema import rows
from opencode_tasks.ledger.usage_sums import row_totals, update_row_totals


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRow:
    """A row whose last attempt ended, with an answer (completed) or an error (failed), one of the two.

    ``record`` is what the attempt left, its steps priced; ``lease`` is the one under which the row
    was sent; ``now`` is the time of the end.
    """

    lease: Lease
    attempt_id: str
    record: AttemptRecord
    run_id: str
    row_id: str
    answer: Answer | None = None
    error: OpenCodeError | None = None
    now: datetime

    def __post_init__(self) -> None:
        if (self.answer is None) == (self.error is None):
            raise ValueError("a row is finished with an answer or with an error, not with both or none")

    @property
    def outcome(self) -> Outcome:
        """The final record of the row."""
        if self.answer is not None:
            return outcomes.completed(self.answer)
        assert self.error is not None
        return outcomes.failed(self.error, self.record)


def finish_row(connection: Connection, row: FinishedRow) -> bool:
    """End the attempt and its row; False if the lease was lost and only the attempt was written."""
    has_lease = is_current(connection, row.lease)
    before = write_end(connection, row.attempt_id, record=row.record, error=row.error, now=row.now)
    if not has_lease:
        update_row_totals(connection, row.run_id, row.row_id)
        # If this is a repeated call, the first one was under a valid lease.
        return before["ended_at"] is not None and before["row_status"] != "open"
    if before["row_status"] == "open":
        _write_outcome(connection, row.run_id, row.row_id, row.outcome, row.now)
        copy_to_equal_rows(connection, row.run_id, row.row_id, row.lease.row_key, row.now)
    else:
        update_row_totals(connection, row.run_id, row.row_id)
    release(connection, row.lease)
    return True


def _write_outcome(connection: Connection, run_id: str, row_id: str, outcome: Outcome, now: datetime) -> None:
    totals = row_totals(connection, run_id, row_id)
    started = totals["started_at"]
    columns = outcome.columns
    # An outcome without a session keeps the one of an earlier attempt, and its model.
    kept = {name: func.coalesce(columns[name], rows.c[name]) for name in ("session_id", "model_ref")}
    connection.execute(
        rows.update()
        .where(rows.c.run_id == run_id, rows.c.row_id == row_id)
        .values(
            **(columns | kept | totals),
            completed_at=now,
            duration_s=0.0 if started is None else (now - started).total_seconds(),
        )
    )


def wait_row(
    connection: Connection,
    lease: Lease,
    *,
    run_id: str,
    row_id: str,
    error: OpenCodeError,
    until: datetime | None,
) -> None:
    """Leave a row open with its error until a time (None: until a person acts), and release its lease.

    Raises LeaseLostError if another owner has the lease now.
    """
    if not is_current(connection, lease):
        raise LeaseLostError.of(lease)
    if _locked_status(connection, run_id, row_id) == "open":
        values: dict[str, Any] = {
            "error_type": error.error_type,
            "error_message": outcomes.message_of(error),
            "waits_until": until,
            **row_totals(connection, run_id, row_id),
        }
        connection.execute(
            rows.update().where(rows.c.run_id == run_id, rows.c.row_id == row_id).values(**values)
        )
    release(connection, lease)


def finish_unleased(
    connection: Connection, run_id: str, row_id: str, outcome: Outcome, now: datetime
) -> None:
    """Finish an open row that no worker can be processing."""
    if _locked_status(connection, run_id, row_id) == "open":
        _write_outcome(connection, run_id, row_id, outcome, now)


def _locked_status(connection: Connection, run_id: str, row_id: str) -> str | None:
    query = select(rows.c.status).where(rows.c.run_id == run_id, rows.c.row_id == row_id)
    return connection.execute(query.with_for_update()).scalar_one_or_none()


def fail_row(
    connection: Connection, run_id: str, row_id: str, *, error_type: str, error_message: str, now: datetime
) -> None:
    """Fail an open row without a lease; the cost of its attempts stays.

    For a row that is refused before its first attempt, or whose worker died too often.
    """
    outcome = Outcome(status="failed", error_type=error_type, error_message=error_message)
    finish_unleased(connection, run_id, row_id, outcome, now)
