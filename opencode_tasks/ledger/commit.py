"""How a row ends or waits; a commit under a lost lease is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, case, exists, func, select

from opencode_tasks.domain.records import Answer, AttemptRecord
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.ledger import attempts as trials
from opencode_tasks.ledger.leases import Lease, is_current, lost, release
from opencode_tasks.ledger.reuse import share
from opencode_tasks.ledger.schema import attempts, rows
from opencode_tasks.ledger.totals import SUMMED, refresh_row, row_totals

IDS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A row's end as its columns show it; of a failure, ``response`` is the partial text."""

    status: Literal["completed", "failed"]
    response: str | None
    structured: Any = None
    error_type: str | None = None
    error_message: str | None = None
    finish_reason: str | None = None
    session_id: str | None = None
    turns: int | None = None
    model_ref: str | None = None


def answered(answer: Answer) -> Outcome:
    """The outcome of a row with an answer."""
    return Outcome(
        status="completed",
        response=answer.text,
        structured=answer.structured,
        finish_reason=answer.finish_reason,
        session_id=answer.attempt.session_id,
        turns=answer.turns,
        model_ref=answer.model_ref,
    )


def failed(error: OpenCodeError, record: AttemptRecord, partial: str | None) -> Outcome:
    """The outcome of a row whose last attempt left this error and this record."""
    root = next((session for session in record.sessions if session.parent_id is None), None)
    last = root.steps[-1] if root is not None and root.steps else None
    return Outcome(
        status="failed",
        response=partial,
        error_type=error.error_type,
        error_message=trials.message_of(error),
        finish_reason=None if last is None else last.finish_reason,
        session_id=record.session_id,
        turns=None if root is None or not root.messages else trials.turns_of(root.messages),
        model_ref=None if last is None else last.model_ref,
    )


def partial_text(error: OpenCodeError) -> str | None:
    """What came before the error, None where nothing did."""
    return (error.partial_text or None) if error.reaction.keeps_partial_text else None


def _status(connection: Connection, run_id: str, row_id: str) -> str | None:
    mine = (rows.c.run_id == run_id) & (rows.c.row_id == row_id)
    return connection.execute(select(rows.c.status).where(mine).with_for_update()).scalar_one_or_none()


def _write(connection: Connection, run_id: str, row_id: str, outcome: Outcome, now: datetime) -> None:
    totals = row_totals(connection, run_id, row_id)
    started = totals["started_at"]
    connection.execute(
        rows.update()
        .where(rows.c.run_id == run_id, rows.c.row_id == row_id)
        .values(
            status=outcome.status,
            response=outcome.response,
            structured=outcome.structured,
            error_type=outcome.error_type,
            error_message=outcome.error_message,
            waits_until=None,
            finish_reason=outcome.finish_reason,
            session_id=func.coalesce(outcome.session_id, rows.c.session_id),
            turns=outcome.turns,
            model_ref=func.coalesce(outcome.model_ref, rows.c.model_ref),
            completed_at=now,
            duration_s=0.0 if started is None else (now - started).total_seconds(),
            **totals,
        )
    )


def finish(
    connection: Connection,
    *,
    lease: Lease,
    attempt_id: str,
    record: AttemptRecord,
    run_id: str,
    row_id: str,
    outcome: Outcome,
    error: OpenCodeError | None,
    now: datetime,
) -> bool:
    """End the attempt and its row; False where only the attempt was written since the lease was lost."""
    current = is_current(connection, lease)
    before = trials.end(connection, attempt_id, record=record, error=error, now=now)
    if not current:
        refresh_row(connection, run_id, row_id)
        # Said twice: the first time was under a good lease.
        return before["ended_at"] is not None and before["row_status"] != "open"
    if before["row_status"] == "open":
        _write(connection, run_id, row_id, outcome, now)
        share(connection, run_id, row_id, lease.row_key, now)
    else:
        refresh_row(connection, run_id, row_id)
    release(connection, lease)
    return True


def wait(
    connection: Connection,
    lease: Lease,
    *,
    run_id: str,
    row_id: str,
    error: OpenCodeError,
    until: datetime | None,
) -> None:
    """Leave the row open with its error and its moment (None: a person); give the lease back."""
    if not is_current(connection, lease):
        raise lost(lease)
    if _status(connection, run_id, row_id) == "open":
        connection.execute(
            rows.update()
            .where(rows.c.run_id == run_id, rows.c.row_id == row_id)
            .values(
                error_type=error.error_type,
                error_message=trials.message_of(error),
                waits_until=until,
                **row_totals(connection, run_id, row_id),
            )
        )
    release(connection, lease)


def hold(
    connection: Connection,
    run_id: str,
    row_ids: Sequence[str] | None,
    *,
    error_type: str,
    error_message: str,
    until: datetime | None,
) -> None:
    """Show on open rows what they wait for; what a row met itself stays shown.

    Without ``row_ids`` on every row that shows no moment yet.
    """
    update = (
        rows.update()
        .where(rows.c.run_id == run_id, rows.c.status == "open")
        .values(
            error_type=func.coalesce(rows.c.error_type, error_type),
            error_message=func.coalesce(rows.c.error_message, error_message),
            waits_until=until,
        )
    )
    if row_ids is None:
        connection.execute(update.where(rows.c.waits_until.is_(None)))
        return
    for start in range(0, len(row_ids), IDS_AT_ONCE):
        chunk = list(row_ids[start : start + IDS_AT_ONCE])
        connection.execute(update.where(rows.c.row_id.in_(chunk)))


def fail(
    connection: Connection, run_id: str, row_id: str, *, error_type: str, error_message: str, now: datetime
) -> None:
    """Fail an open row without a lease; what its attempts cost stays."""
    outcome = Outcome(status="failed", response=None, error_type=error_type, error_message=error_message)
    end_unleased(connection, run_id, row_id, outcome, now)


def end_unleased(connection: Connection, run_id: str, row_id: str, outcome: Outcome, now: datetime) -> None:
    """End an open row that nobody else can be working on."""
    if _status(connection, run_id, row_id) == "open":
        _write(connection, run_id, row_id, outcome, now)


def skip(connection: Connection, run_id: str, *, error_type: str, error_message: str, now: datetime) -> int:
    """Skip every open row of a run; how many there were."""
    tried = exists().where(attempts.c.run_id == rows.c.run_id, attempts.c.row_id == rows.c.row_id)
    nothing_sold = {name: case((tried, rows.c[name]), else_=0) for name in SUMMED}
    return connection.execute(
        rows.update()
        .where(rows.c.run_id == run_id, rows.c.status == "open")
        .values(
            status="skipped",
            error_type=error_type,
            error_message=error_message,
            waits_until=None,
            completed_at=now,
            **nothing_sold,
        )
    ).rowcount
