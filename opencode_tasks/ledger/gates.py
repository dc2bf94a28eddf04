"""The gates: whether requests may reach a provider and model with a credential.

A gate closes when the provider says that nobody may ask now: until a moment (a rate limit, an
outage), or until a person has mended something (credentials, billing). When its moment has come
one row goes first, the probe, and opens or closes the gate for all.

A refusal that may be one row's own (some models are not everybody's) makes that row a suspect: the
gate is closed, and one other row is asked. Answered, the suspect has failed by itself and the gate
opens; refused too, a person is needed. A row that is refused again, after others were answered
meanwhile, has failed by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, exists, select

from opencode_tasks.errors import OpenCodeError, error_types
from opencode_tasks.ledger.attempts import message_of
from opencode_tasks.ledger.commit import fail
from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.schema import attempts, gates, leases

# How long a row that has failed before leaves a half-open gate to others.
YIELD_S = 3.0
LOOK_AGAIN_S = 0.5
REFUSALS = error_types(lambda reaction: reaction.gate == "close_until_person")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateHold:
    """A closed gate: its error, and the moment to come back, None where a person is needed."""

    until: datetime | None
    error_type: str
    error_message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A gate as it stands; ``reset_time`` None in a closed one means that a person is needed."""

    gate_id: str
    model_ref: str
    is_open: bool
    error_type: str | None
    error_message: str | None
    reset_time: datetime | None
    is_confirmed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GateObservation:
    """How an attempt ended, as a gate must know it; ``started_at`` is when it was begun.

    ``is_try`` says that more rows were in flight than the provider is known to take: a rate limit that
    names no moment then says nothing of the rows that it took.
    """

    gate_id: str
    model_ref: str
    run_id: str
    row_id: str
    owner: str
    started_at: datetime
    error: OpenCodeError | None
    is_try: bool = False


Closing = Callable[[int], datetime]


def read(connection: Connection, gate_id: str) -> Gate | None:
    """The gate, None where nothing was ever wrong with it."""
    found = _line(connection, gate_id)
    if found is None:
        return None
    return Gate(
        gate_id=gate_id,
        is_confirmed=found["suspect_row_id"] is None,
        **{
            name: found[name]
            for name in ("model_ref", "is_open", "error_type", "error_message", "reset_time")
        },
    )


_LINE = select(gates).where(gates.c.gate_id == bindparam("of_gate"))
_LOCKED_LINE = _LINE.with_for_update()


def _line(connection: Connection, gate_id: str, *, lock: bool = False) -> Mapping[Any, Any] | None:
    query = _LOCKED_LINE if lock else _LINE
    return connection.execute(query, {"of_gate": gate_id}).mappings().one_or_none()


def _set(connection: Connection, gate_id: str, **values: Any) -> None:
    connection.execute(gates.update().where(gates.c.gate_id == gate_id).values(**values))


NO_PROBE = {"probe_owner": None, "probe_until": None}
NO_SUSPECT = {"suspect_run_id": None, "suspect_row_id": None, "suspect_since": None}


def half_open(connection: Connection, gate_id: str, now: datetime) -> None:
    """Let one row try a gate that waits for a person: somebody started or resumed a run."""
    connection.execute(
        gates.update()
        .where(gates.c.gate_id == gate_id, gates.c.is_open.is_(False), gates.c.reset_time.is_(None))
        .values(reset_time=now, changed_at=now, **NO_PROBE, **NO_SUSPECT)
    )


def closed_line(connection: Connection, gate_id: str) -> Mapping[Any, Any] | None:
    """The gate's line where it is closed, None where anybody may pass."""
    line = _line(connection, gate_id)
    return None if line is None or line["is_open"] else line


def held_by(line: Mapping[Any, Any]) -> GateHold:
    """What a closed gate tells those that it holds."""
    return GateHold(
        until=line["reset_time"], error_type=line["error_type"], error_message=line["error_message"]
    )


def suspect_in(line: Mapping[Any, Any], run_id: str) -> str | None:
    """The row of a run that is the gate's suspect, None where it is none of the run's."""
    return line["suspect_row_id"] if line["suspect_run_id"] == run_id else None


def admit(
    connection: Connection,
    gate_id: str,
    *,
    run_id: str,
    row_id: str,
    owner: str,
    now: datetime,
    probe_s: float,
    is_troubled: bool = False,
) -> GateHold | None:
    """None where the row may pass, as a probe where the gate is closed; it has ``probe_s`` then.

    A row that has failed before lets the others try first: by its own fault it would close the gate again.
    """
    line = _line(connection, gate_id, lock=True)
    if line is None or line["is_open"]:
        return None
    held = {"error_type": line["error_type"], "error_message": line["error_message"]}
    if line["reset_time"] is not None and line["reset_time"] > now:
        return GateHold(until=line["reset_time"], **held)
    yields_until = (line["reset_time"] or now) + timedelta(seconds=YIELD_S)
    if is_troubled and line["reset_time"] is not None and yields_until > now:
        return GateHold(until=yields_until, **held)
    if line["reset_time"] is None and not _may_clear(line, run_id, row_id):
        return GateHold(until=None, **held)
    is_probed = line["probe_until"] is not None and line["probe_until"] > now
    if is_probed or (line["reset_time"] is None and _in_flight(connection, gate_id, run_id, now)):
        return GateHold(until=now + timedelta(seconds=LOOK_AGAIN_S), **held)
    probe = probe_name(owner, row_id)
    _set(connection, gate_id, probe_owner=probe, probe_until=now + timedelta(seconds=probe_s))
    return None


def probe_name(owner: str, row_id: str) -> str:
    """Names the one row of an owner that is the probe."""
    return f"{owner} {row_id}"


def _may_clear(line: Mapping[Any, Any], run_id: str, row_id: str) -> bool:
    """Whether this row could show that the refusal was the suspect's own."""
    suspect = (line["suspect_run_id"], line["suspect_row_id"])
    return suspect[1] is not None and suspect != (run_id, row_id)


def _in_flight(connection: Connection, gate_id: str, run_id: str, now: datetime) -> bool:
    query = select(
        exists().where(
            attempts.c.gate_id == gate_id,
            attempts.c.run_id == run_id,
            attempts.c.ended_at.is_(None),
            leases.c.row_key == attempts.c.row_key,
            leases.c.owner == attempts.c.owner,
            leases.c.until > now,
        )
    )
    return bool(connection.execute(query).scalar_one())


def keep_probe(connection: Connection, owner: str, *, now: datetime, probe_s: float) -> None:
    """Extend the probe of an owner (of any of its rows) that still works on it."""
    connection.execute(
        gates.update()
        .where(gates.c.probe_owner.startswith(owner, autoescape=True))
        .values(probe_until=now + timedelta(seconds=probe_s))
    )


def give_up_probe(connection: Connection, gate_id: str, owner: str, row_id: str) -> None:
    """Let another row be the probe; nothing happens where this one is not."""
    connection.execute(
        gates.update()
        .where(gates.c.gate_id == gate_id, gates.c.probe_owner == probe_name(owner, row_id))
        .values(**NO_PROBE)
    )


def wants_report(connection: Connection, report: GateObservation) -> bool:
    """Whether an attempt's end changes anything at its gate: most do not, and cost no write."""
    if report.error is not None and report.error.reaction.gate not in ("none", "open"):
        return True
    line = _line(connection, report.gate_id)
    return line is not None and (not line["is_open"] or line["failures"] > 0)


def report(
    connection: Connection,
    report: GateObservation,
    *,
    now: datetime,
    limit_end: Closing,
    outage_end: Closing,
    breaker_failures: int,
) -> None:
    """Tell the gate how an attempt ended.

    ``limit_end`` and ``outage_end`` give the moment until which the gate is closed the n-th time.
    """
    values = {
        "gate_id": report.gate_id,
        "model_ref": report.model_ref,
        "is_open": True,
        "changed_at": now,
        "failures": 0,
        "closures": 0,
    }
    connection.execute(insert_into(connection, gates).values(**values).on_conflict_do_nothing())
    line = _line(connection, report.gate_id, lock=True)
    assert line is not None
    error = report.error
    match error.reaction.gate if error else "open":
        case "close_until_reset":
            is_named = error is None or error.named_reset_time is not None
            if is_named or not (report.is_try and line["is_open"]):
                _close_for_a_while(connection, line, report, now, limit_end)
        case "count_failure":
            failures = line["failures"] + 1
            _set(connection, report.gate_id, failures=failures)
            if failures >= breaker_failures or _is_probe(line, report):
                _close_for_a_while(connection, line, report, now, outage_end)
        case "close_until_person":
            _refused(connection, line, report, now)
        case "none":
            # It says nothing about the provider: another row may tell more.
            give_up_probe(connection, report.gate_id, report.owner, report.row_id)
        case "open":
            _answered(connection, line, report, now)


def tell_answered(connection: Connection, reports: Sequence[GateObservation], now: datetime) -> None:
    """Tell a gate, the same for all, that rows were answered: at an open one that changes nothing."""
    for one in reports:
        line = _line(connection, one.gate_id)
        if line is None or (line["is_open"] and not line["failures"]):
            return
        line = _line(connection, one.gate_id, lock=True)
        assert line is not None
        _answered(connection, line, one, now)


def _is_probe(line: Mapping[Any, Any], report: GateObservation) -> bool:
    return not line["is_open"] and line["probe_owner"] == probe_name(report.owner, report.row_id)


def _close_for_a_while(
    connection: Connection, line: Mapping[Any, Any], report: GateObservation, now: datetime, end: Closing
) -> None:
    if not line["is_open"] and line["reset_time"] is None and not _is_probe(line, report):
        return  # A person is asked for; the limit will be met again.
    # What was in flight together is one closing, not one for each row.
    is_new = line["is_open"] or _is_probe(line, report)
    closures = line["closures"] + 1 if is_new else max(1, line["closures"])
    until = end(closures)
    known = None if is_new else line["reset_time"]
    assert report.error is not None
    _set(
        connection,
        report.gate_id,
        is_open=False,
        reset_time=max(filter(None, [until, known])),
        error_type=report.error.error_type,
        error_message=message_of(report.error),
        closures=closures,
        changed_at=now,
        **NO_PROBE,
        **NO_SUSPECT,
    )


def _refused(connection: Connection, line: Mapping[Any, Any], report: GateObservation, now: datetime) -> None:
    assert report.error is not None
    if not line["is_open"] and line["reset_time"] is not None and not _is_probe(line, report):
        return  # The gate is closed for a while; this row is asked again after that.
    if _others_were_answered_since(connection, report):
        give_up_probe(connection, report.gate_id, report.owner, report.row_id)
        fail(
            connection,
            report.run_id,
            report.row_id,
            error_type=report.error.error_type,
            error_message=message_of(report.error),
            now=now,
        )
        return
    suspected = line["suspect_row_id"] is not None and not line["is_open"]
    if suspected or (not line["is_open"] and line["reset_time"] is None):
        other = (line["suspect_run_id"], line["suspect_row_id"]) != (report.run_id, report.row_id)
        if suspected and other and line["error_type"] == report.error.error_type:
            _set(connection, report.gate_id, **NO_PROBE, **NO_SUSPECT)
        else:
            give_up_probe(connection, report.gate_id, report.owner, report.row_id)
        return
    _set(
        connection,
        report.gate_id,
        is_open=False,
        reset_time=None,
        error_type=report.error.error_type,
        error_message=message_of(report.error),
        changed_at=now,
        suspect_run_id=report.run_id,
        suspect_row_id=report.row_id,
        suspect_since=now,
        **NO_PROBE,
    )


def _others_were_answered_since(connection: Connection, report: GateObservation) -> bool:
    """Whether this row was refused before, and others that were sent after that were answered."""
    before = attempts.alias("before")
    query = select(
        exists().where(
            before.c.run_id == report.run_id,
            before.c.row_id == report.row_id,
            before.c.error_type.in_(REFUSALS),
            attempts.c.gate_id == before.c.gate_id,
            attempts.c.status == "completed",
            attempts.c.started_at > before.c.ended_at,
        )
    )
    return bool(connection.execute(query).scalar_one())


def _answered(
    connection: Connection, line: Mapping[Any, Any], report: GateObservation, now: datetime
) -> None:
    if line["is_open"]:
        _set(connection, report.gate_id, failures=0, closures=0)
        return
    is_evidence = line["suspect_since"] is not None and report.started_at > line["suspect_since"]
    if not is_evidence and not _is_probe(line, report):
        return
    if line["suspect_row_id"] is not None:
        fail(
            connection,
            line["suspect_run_id"],
            line["suspect_row_id"],
            error_type=line["error_type"],
            error_message=line["error_message"],
            now=now,
        )
    _set(
        connection,
        report.gate_id,
        is_open=True,
        reset_time=None,
        error_type=None,
        error_message=None,
        failures=0,
        closures=0,
        changed_at=now,
        **NO_PROBE,
        **NO_SUSPECT,
    )
