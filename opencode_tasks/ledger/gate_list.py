"""Gates as a person sees them: those that hold or limit rows, and a way to open one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, ScalarSelect, exists, func, select

from opencode_tasks.domain.concurrency import MAX_AGE_S, AdaptiveLimit
from opencode_tasks.ledger.concurrency import limit_of
from opencode_tasks.ledger.gate_admission import NO_FAILURES, NO_PROBE, NO_SUSPECT, find_gate, update_gate
from opencode_tasks.ledger.runs import UNFINISHED
from opencode_tasks.ledger.schema import attempts, concurrency_limits, gates, rows, runs

GateState = Literal["closed", "half_open", "limited"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedGate:
    """A gate that is closed or limited.

    ``state``: ``closed`` lets no row pass before ``until`` (None: until a person acts), ``half_open``
    lets one row pass to test the provider, and ``limited`` lets ``max_rows`` rows pass at a time, the
    number that the provider accepted (None: not known). ``since`` is the time of the last change to that
    state. ``error_type`` and ``error_message`` are the last refusal of the provider, None if it is not
    stored. ``waiting_rows`` is the number of open rows of unfinished runs that have used the gate. Without
    any, a gate that is closed until a person acts holds nothing: the next run that uses it tests it.
    """

    gate_id: str
    model_ref: str
    state: GateState
    error_type: str | None
    error_message: str | None
    since: datetime | None
    until: datetime | None
    max_rows: int | None
    waiting_rows: int

    @property
    def needs_person(self) -> bool:
        """Whether rows wait until a person acts."""
        return self.state == "closed" and self.until is None and self.waiting_rows > 0


def list_gates(connection: Connection, *, now: datetime) -> list[ListedGate]:
    """The gates that are closed or limited, by their id."""
    closed_gates = connection.execute(select(gates).where(gates.c.is_open.is_(False))).mappings().all()
    closed = {gate["gate_id"]: gate for gate in closed_gates}
    limits = _limits(connection, now)
    return [
        _listed(connection, gate_id, closed.get(gate_id), limits.get(gate_id), now)
        for gate_id in sorted(closed.keys() | limits.keys())
    ]


def open_gate(connection: Connection, gate_id: str, *, now: datetime) -> bool | None:
    """Open a gate, and end the waits of the rows that it held.

    Returns whether the gate was closed; None if the ledger has no gate with this id.
    """
    gate = find_gate(connection, gate_id, lock=True)
    if gate is None:
        is_known = exists().where(concurrency_limits.c.gate_id == gate_id)
        return False if connection.execute(select(is_known)).scalar_one() else None
    if gate["is_open"]:
        return False
    held = rows.c.run_id.in_(_runs_at(gate_id)) & (rows.c.error_type == gate["error_type"])
    connection.execute(
        rows.update().where(held, rows.c.status == "open", rows.c.waits_until > now).values(waits_until=None)
    )
    update_gate(
        connection,
        gate_id,
        is_open=True,
        reset_time=None,
        error_type=None,
        error_message=None,
        closures=0,
        changed_at=now,
        **NO_FAILURES,
        **NO_PROBE,
        **NO_SUSPECT,
    )
    return True


def _limits(connection: Connection, now: datetime) -> dict[str, AdaptiveLimit]:
    """The limits below which the provider refuses rows, by gate. Old ones are not used by runs either."""
    query = select(concurrency_limits.c.gate_id, concurrency_limits.c.state)
    found = {line.gate_id: limit_of(line.state) for line in connection.execute(query)}
    oldest = now - timedelta(seconds=MAX_AGE_S)
    return {
        gate_id: limit
        for gate_id, limit in found.items()
        if limit is not None and limit.ceiling is not None and limit.used_at >= oldest
    }


def _listed(
    connection: Connection,
    gate_id: str,
    gate: Mapping[Any, Any] | None,
    limit: AdaptiveLimit | None,
    now: datetime,
) -> ListedGate:
    waiting = connection.execute(
        select(func.count()).where(rows.c.run_id.in_(_runs_at(gate_id)), rows.c.status == "open")
    ).scalar_one()
    max_rows = limit.ceiling if limit is not None else None
    if gate is None:
        return ListedGate(
            gate_id=gate_id,
            model_ref=gate_id.rpartition("#")[0],
            state="limited",
            error_type=None,
            error_message=None,
            since=limit.cut_at if limit is not None else None,
            until=None,
            max_rows=max_rows,
            waiting_rows=waiting,
        )
    until = gate["reset_time"]
    return ListedGate(
        gate_id=gate_id,
        model_ref=gate["model_ref"],
        state="closed" if until is None or until > now else "half_open",
        error_type=gate["error_type"],
        error_message=gate["error_message"],
        since=gate["changed_at"],
        until=until,
        max_rows=max_rows,
        waiting_rows=waiting,
    )


def _runs_at(gate_id: str) -> ScalarSelect[Any]:
    """The unfinished runs with an attempt at the gate."""
    has_attempt = exists().where(attempts.c.run_id == runs.c.run_id, attempts.c.gate_id == gate_id)
    return select(runs.c.run_id).where(runs.c.status.in_(UNFINISHED), has_attempt).scalar_subquery()
