"""Sessions that opencode ran by itself, as runs of one row, marked as imported."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from opencode_tasks.domain.records import AttemptRecord, RowInput
from opencode_tasks.ledger import attempts as trials
from opencode_tasks.ledger import commit as commits
from opencode_tasks.ledger import runs as run_specs
from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.schema import attempts, sessions
from opencode_tasks.ledger.totals import refresh_row

ORIGIN = "import"


def recorded_in(connection: Connection, session_id: str) -> str | None:
    """The run that a session is recorded in, None where it is in none."""
    query = select(sessions.c.run_id).where(sessions.c.session_id == session_id)
    return connection.execute(query).scalar_one_or_none()


def import_session(
    connection: Connection,
    record: AttemptRecord,
    *,
    prompt: str,
    text: str,
    model_ref: str | None,
    version: str | None,
    started_at: datetime,
    ended_at: datetime,
) -> str:
    """Write a session and what it bought; its run. A second time changes only what has grown."""
    session_id = record.session_id or ""
    run_id = f"{ORIGIN}-{session_id}"
    row_key = f"{ORIGIN}:{session_id}"
    run_specs.create_run(connection, _run(run_id, model_ref, version, started_at, ended_at))
    row = RowInput(row_id=session_id, position=0, row_key=row_key, prompt=prompt)
    run_specs.add_rows(connection, run_id, [row])
    attempt_id = str(uuid.uuid5(uuid.NAMESPACE_OID, row_key))
    values: dict[str, Any] = {
        "attempt_id": attempt_id,
        "run_id": run_id,
        "row_id": session_id,
        "row_key": row_key,
        "attempt": 1,
        "fence": 0,
        "owner": ORIGIN,
        "started_at": started_at,
        "status": "open",
        "backend": ORIGIN,
        "usage_known": True,
    }
    connection.execute(insert_into(connection, attempts).values(**values).on_conflict_do_nothing())
    before = trials.end(connection, attempt_id, record=record, error=None, now=ended_at)
    outcome = commits.Outcome(
        status="completed",
        response=text,
        session_id=session_id,
        turns=trials.turns_of(record.sessions[0].messages),
        model_ref=model_ref,
    )
    if before["row_status"] == "open":
        commits.end_unleased(connection, run_id, session_id, outcome, ended_at)
    else:
        refresh_row(connection, run_id, session_id)
    return run_id


def _run(
    run_id: str, model_ref: str | None, version: str | None, started_at: datetime, ended_at: datetime
) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "created_at": started_at,
        "ended_at": ended_at,
        "status": "completed",
        "parameters": {},
        "model_ref": model_ref,
        "backend": ORIGIN,
        "opencode_version": version,
        "flow_run_ids": [],
        "row_count": 1,
        "refresh": False,
        "origin": ORIGIN,
    }
