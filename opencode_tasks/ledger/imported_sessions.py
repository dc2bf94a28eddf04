"""Sessions that opencode ran outside this library, each imported as a run of one row."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, select

from opencode_tasks.domain.records import AttemptRecord, RowInput
from opencode_tasks.ledger.attempts import write_attempts
from opencode_tasks.ledger.clock import lease_time
from opencode_tasks.ledger.finish import EndedAttempt, end_attempts
from opencode_tasks.ledger.leases import acquire
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.row_outcomes import imported
from opencode_tasks.ledger.rows import insert_rows
from opencode_tasks.ledger.runs import insert_run
from opencode_tasks.ledger.schema import sessions
from opencode_tasks.ledger.usage import count_turns

ORIGIN = "import"


def run_of_session(connection: Connection, session_id: str) -> str | None:
    """The run in which a session is recorded; None if it is not recorded."""
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
    """Write a session and its usage; returns the id of its run.

    ``text`` is the answer, ``version`` that of opencode. A second import adds only what is new.
    """
    session_id = record.session_id or ""
    run_id, row_key = f"{ORIGIN}-{session_id}", f"{ORIGIN}:{session_id}"
    insert_run(connection, _run_values(run_id, model_ref, version, started_at, ended_at))
    insert_rows(connection, run_id, [RowInput(row_id=session_id, position=0, row_key=row_key, prompt=prompt)])
    attempt_id = str(uuid.uuid5(uuid.NAMESPACE_OID, row_key))
    lease_now = lease_time(connection)
    leases = acquire(connection, [row_key], owner=ORIGIN, lease_now=lease_now, lease_s=0)
    values: dict[str, Any] = {
        **dict.fromkeys(("node_id", "host", "data_dir", "gate_id")),
        "attempt_id": attempt_id,
        "run_id": run_id,
        "row_id": session_id,
        "row_key": row_key,
        "attempt": 1,
        "fence": 1,
        "owner": ORIGIN,
        "started_at": started_at,
        "backend": ORIGIN,
        "reserved_pico": 0,
        "max_call_pico": 0,
    }
    write_attempts(connection, [values])
    turns = count_turns(record.sessions[0].messages)
    row = imported(text, session_id=session_id, turns=turns, model_ref=model_ref)
    end = EndedAttempt(lease=leases[row_key], attempt_id=attempt_id, record=record, row=row, now=ended_at)
    end_attempts(connection, [end])
    return run_id


def _run_values(
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
        "row_count": 1,
        "refresh": False,
        "origin": ORIGIN,
    }


class Imports(Group):
    """``ledger.imports``: sessions that opencode ran outside this library."""

    run_of_session: Final = read(run_of_session)
    add: Final = write(import_session)
