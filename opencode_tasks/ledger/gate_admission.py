"""Admission at a gate: whether a row may be sent now, and which row is the probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, exists, select

from opencode_tasks.domain.hold import Hold
from opencode_tasks.ledger.clock import lease_time
from opencode_tasks.ledger.schema import attempts, gates, leases

# How long a row that has failed before leaves a half-open gate to other rows.
YIELD_S = 3.0
LOOK_AGAIN_S = 0.5

NO_PROBE = {"probe_owner": None, "probe_until": None}
NO_SUSPECT = {"suspect_run_id": None, "suspect_row_id": None, "suspect_since": None}
NO_FAILURES: dict[str, Any] = {
    "failures": 0,
    "failing_since": None,
    "failing_run_id": None,
    "failing_row_id": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """State of a gate.

    ``reset_time`` None in a closed gate means that a person must act. ``is_confirmed`` is False
    while one other row is to show whether the refusal concerns only the first one. ``failing_since`` is
    the time since which the provider is unavailable; None if it is not.
    """

    gate_id: str
    model_ref: str
    is_open: bool
    error_type: str | None
    error_message: str | None
    reset_time: datetime | None
    is_confirmed: bool
    failing_since: datetime | None


def get_gate(connection: Connection, gate_id: str) -> Gate | None:
    """The state of a gate; None if no error was recorded at it."""
    found = find_gate(connection, gate_id)
    if found is None:
        return None
    names = ("model_ref", "is_open", "error_type", "error_message", "reset_time", "failing_since")
    is_confirmed = found["suspect_row_id"] is None
    return Gate(gate_id=gate_id, is_confirmed=is_confirmed, **{name: found[name] for name in names})


_GATE = select(gates).where(gates.c.gate_id == bindparam("of_gate"))
_LOCKED_GATE = _GATE.with_for_update()


def find_gate(connection: Connection, gate_id: str, *, lock: bool = False) -> Mapping[Any, Any] | None:
    """The columns of a gate, locked until the transaction ends with ``lock``; None without one."""
    query = _LOCKED_GATE if lock else _GATE
    return connection.execute(query, {"of_gate": gate_id}).mappings().one_or_none()


def update_gate(connection: Connection, gate_id: str, **values: Any) -> None:
    """Set columns of a gate."""
    connection.execute(gates.update().where(gates.c.gate_id == gate_id).values(**values))


def half_open(connection: Connection, gate_id: str, *, now: datetime) -> None:
    """Let one row pass a gate that waits for a person, since a run was started or resumed.

    The time of an outage is counted from now on. A gate that is open or waits until a time does not change
    otherwise.
    """
    connection.execute(gates.update().where(gates.c.gate_id == gate_id).values(**NO_FAILURES))
    connection.execute(
        gates.update()
        .where(gates.c.gate_id == gate_id, gates.c.is_open.is_(False), gates.c.reset_time.is_(None))
        .values(reset_time=now, changed_at=now, **NO_PROBE, **NO_SUSPECT)
    )


def closed_gate(connection: Connection, gate_id: str) -> Mapping[Any, Any] | None:
    """The columns of a closed gate; None if the gate is open."""
    gate = find_gate(connection, gate_id)
    return None if gate is None or gate["is_open"] else gate


def hold_of(gate: Mapping[Any, Any], *, until: datetime | None = None) -> Hold:
    """Why a closed gate lets no row pass, until its reset time or (if given) until another time."""
    return Hold(
        until=until or gate["reset_time"],
        error_type=gate["error_type"] or "",
        message=gate["error_message"] or "",
        applies_to_all=True,
    )


def suspect_of(gate: Mapping[Any, Any], run_id: str) -> str | None:
    """The row of a run that is the suspect of a gate; None if it is no row of the run."""
    return gate["suspect_row_id"] if gate["suspect_run_id"] == run_id else None


def admit(
    connection: Connection,
    gate_id: str,
    *,
    run_id: str,
    row_id: str,
    owner: str,
    now: datetime,
    lease_now: datetime,
    probe_s: float,
    has_failed: bool = False,
) -> Hold | None:
    """Let a row pass (None), through a half-open gate as its probe for ``probe_s`` seconds.

    A row that has failed before lets other rows pass first for a while: by its own fault it would
    close the gate again.
    """
    gate = find_gate(connection, gate_id, lock=True)
    if gate is None or gate["is_open"]:
        return None
    reset_time = gate["reset_time"]
    if reset_time is not None and reset_time > now:
        return hold_of(gate)
    yields_until = (reset_time or now) + timedelta(seconds=YIELD_S)
    if has_failed and reset_time is not None and yields_until > now:
        return hold_of(gate, until=yields_until)
    if reset_time is None and not _may_clear_suspect(gate, run_id, row_id):
        return hold_of(gate)
    has_probe = gate["probe_until"] is not None and gate["probe_until"] > lease_now
    if has_probe or (reset_time is None and _has_rows_in_flight(connection, gate_id, run_id, lease_now)):
        return hold_of(gate, until=now + timedelta(seconds=LOOK_AGAIN_S))
    probe_until = lease_now + timedelta(seconds=probe_s)
    update_gate(connection, gate_id, probe_owner=probe_name(owner, row_id), probe_until=probe_until)
    return None


def probe_name(owner: str, row_id: str) -> str:
    """The value of ``probe_owner`` for a row of an owner."""
    return f"{owner} {row_id}"


def _may_clear_suspect(gate: Mapping[Any, Any], run_id: str, row_id: str) -> bool:
    """Whether this row can show that only the suspect is refused."""
    suspect = (gate["suspect_run_id"], gate["suspect_row_id"])
    return suspect[1] is not None and suspect != (run_id, row_id)


def _has_rows_in_flight(connection: Connection, gate_id: str, run_id: str, lease_now: datetime) -> bool:
    query = select(
        exists().where(
            attempts.c.gate_id == gate_id,
            attempts.c.run_id == run_id,
            attempts.c.ended_at.is_(None),
            leases.c.row_key == attempts.c.row_key,
            leases.c.owner == attempts.c.owner,
            leases.c.expires_at > lease_now,
        )
    )
    return bool(connection.execute(query).scalar_one())


def extend_probe(connection: Connection, owner: str, *, probe_s: float, now: datetime | None = None) -> None:
    """Extend the probe of an owner to ``probe_s`` seconds from now, whichever of its rows is the probe."""
    lease_now = now or lease_time(connection)
    connection.execute(
        gates.update()
        .where(gates.c.probe_owner.startswith(owner, autoescape=True))
        .values(probe_until=lease_now + timedelta(seconds=probe_s))
    )


def release_probe(connection: Connection, gate_id: str, owner: str, row_id: str) -> None:
    """Let another row be the probe; a gate with another probe is not changed."""
    connection.execute(
        gates.update()
        .where(gates.c.gate_id == gate_id, gates.c.probe_owner == probe_name(owner, row_id))
        .values(**NO_PROBE)
    )
