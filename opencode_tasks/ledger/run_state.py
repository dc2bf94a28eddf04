"""One read of the ledger for ``domain.next_step``: what the open rows of a run wait for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Text, bindparam, func, or_, select

from opencode_tasks.domain.next_step import ClosedGate, RowWait, RunState
from opencode_tasks.ledger.budgets import budget_message, get_budget
from opencode_tasks.ledger.claim import READY_ROWS
from opencode_tasks.ledger.clock import times
from opencode_tasks.ledger.gate_admission import find_gate, suspect_of
from opencode_tasks.ledger.rows import count_open
from opencode_tasks.ledger.runs import last_progress
from opencode_tasks.ledger.schema import leases, rows

_SUSPECT = bindparam("suspect", type_=Text())
_IS_OTHER = or_(_SUSPECT.is_(None), rows.c.row_id != _SUSPECT)
_IS_OPEN = (rows.c.run_id == bindparam("of_run")) & (rows.c.status == "open") & _IS_OTHER
_READY = select(func.count()).select_from(READY_ROWS.where(_IS_OTHER).limit(bindparam("limit")).subquery())
_LEASED = (
    select(rows.c.row_id)
    .join(leases, leases.c.row_key == rows.c.row_key)
    .where(_IS_OPEN, leases.c.expires_at > bindparam("lease_now"))
    .limit(1)
)
_FIRST_WAIT = (
    select(rows.c.waits_until, rows.c.error_type, rows.c.error_message)
    .where(_IS_OPEN, rows.c.waits_until > bindparam("until"))
    .order_by(rows.c.waits_until)
    .limit(1)
)


def run_state(
    connection: Connection,
    run_id: str,
    gate_id: str,
    *,
    limit: int = 1,
    now: datetime | None = None,
) -> RunState:
    """The state of a run with its gate. Ready rows are counted up to ``limit``."""
    now, lease_now = times(connection, now)
    gate = find_gate(connection, gate_id)
    suspect = None if gate is None or gate["is_open"] else suspect_of(gate, run_id)
    values = {
        "of_run": run_id,
        "lease_now": lease_now,
        "until": now,
        "limit": limit,
        "suspect": suspect,
    }
    ready = connection.execute(_READY, values).scalar_one()
    has_leased = connection.execute(_LEASED, values).first() is not None
    budget = get_budget(connection, run_id)
    closed = _closed(gate)
    may_send = bool(ready) and closed is None and budget.refused_pico is None
    return RunState(
        now=now,
        ready=ready,
        has_leased=has_leased,
        first_wait=_first_wait(connection, values),
        gate=closed,
        failing_since=gate["failing_since"] if gate is not None else None,
        budget_message=None if budget.refused_pico is None else budget_message(budget),
        open_rows=0 if may_send else count_open(connection, run_id),
        last_progress=None if may_send else last_progress(connection, run_id),
    )


def _closed(gate: Mapping[Any, Any] | None) -> ClosedGate | None:
    if gate is None or gate["is_open"]:
        return None
    return ClosedGate(
        until=gate["reset_time"],
        error_type=gate["error_type"] or "",
        message=gate["error_message"] or "",
        is_confirmed=gate["suspect_row_id"] is None,
    )


def _first_wait(connection: Connection, values: Mapping[str, Any]) -> RowWait | None:
    found = connection.execute(_FIRST_WAIT, values).one_or_none()
    if found is None:
        return None
    return RowWait(
        until=found.waits_until,
        error_type=found.error_type or "waiting",
        message=found.error_message or "rows wait",
    )
