"""Gates: whether rows may be sent to a provider and model with a credential.

A gate closes when the provider refuses all requests: until a time (a rate limit, an outage), or
until a person acts (credentials, billing). When the time has passed the gate is half open: one row,
the probe, is sent, and its end opens or closes the gate for all rows.

Credentials or billing may be refused for one row only (some models need a separate permission).
So the first row that is refused becomes the suspect: the gate closes, and one other row is sent. If
that row is answered, the suspect fails and the gate opens; if it is refused too, the gate waits for
a person. A row that is refused again after other rows were answered in between fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, exists, func, select

from opencode_tasks.domain.outage import FailureSeries
from opencode_tasks.errors import OpenCodeError, error_types
from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.finish import fail_rows
from opencode_tasks.ledger.gate_admission import (
    NO_FAILURES,
    NO_PROBE,
    NO_SUSPECT,
    extend_probe,
    find_gate,
    get_gate,
    half_open,
    probe_name,
    release_probe,
    update_gate,
)
from opencode_tasks.ledger.gate_list import list_gates, open_gate
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.row_outcomes import message_of
from opencode_tasks.ledger.schema import attempts, gates, rows

REFUSALS = error_types(lambda reaction: reaction.gate == "close_until_person")

ClosedUntil = Callable[[int], datetime]
"""The end of the n-th consecutive closure, by its number from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateObservation:
    """End of an attempt, for its gate. ``started_at`` is its start, ``error`` None for an answer.

    ``exceeds_known_limit`` says that more rows were in flight than the provider is known to accept:
    a rate limit without a reset time then says nothing about the rows within that number.
    """

    gate_id: str
    model_ref: str
    run_id: str
    row_id: str
    owner: str
    started_at: datetime
    error: OpenCodeError | None
    exceeds_known_limit: bool = False


def _changes_gate(connection: Connection, observation: GateObservation) -> bool:
    """Whether an observation changes its gate. Most do not."""
    if observation.error is not None and observation.error.reaction.gate not in ("none", "open"):
        return True
    gate = find_gate(connection, observation.gate_id)
    return gate is not None and (not gate["is_open"] or gate["failures"] > 0)


def record_end(
    connection: Connection,
    observation: GateObservation,
    *,
    now: datetime,
    limit_end: ClosedUntil,
    outage_end: ClosedUntil,
    breaker_failures: int,
) -> FailureSeries:
    """Open, close or keep a gate by the end of an attempt.

    A rate limit closes it until ``limit_end`` of the closure's number. Server errors and timeouts
    close it until ``outage_end``, after ``breaker_failures`` of them in a row. Returns the failures of an
    unavailable provider since the last answer, with this one.
    """
    if not _changes_gate(connection, observation):
        return FailureSeries()
    gate = _locked_gate(connection, observation, now)
    error = observation.error
    match error.reaction.gate if error else "open":
        case "close_until_reset":
            is_named = error is None or error.named_reset_time is not None
            if is_named or not (observation.exceeds_known_limit and gate["is_open"]):
                _close_until(connection, gate, observation, now, limit_end)
        case "count_failure":
            failures = gate["failures"] + 1
            update_gate(connection, observation.gate_id, failures=failures)
            if failures >= breaker_failures or _is_probe(gate, observation):
                _close_until(connection, gate, observation, now, outage_end)
        case "close_until_person":
            _record_refusal(connection, gate, observation, now)
        case "none":
            # Says nothing about the provider, so another row becomes the probe.
            release_probe(connection, observation.gate_id, observation.owner, observation.row_id)
        case "open":
            _record_answer(connection, gate, observation, now)
    return _series(connection, gate, observation, now)


def _series(
    connection: Connection, gate: Mapping[Any, Any], observation: GateObservation, now: datetime
) -> FailureSeries:
    """Add a failure of an unavailable provider to those since the last answer; ``gate`` is without it."""
    if observation.error is None or not observation.error.is_unavailable:
        return FailureSeries()
    row = (observation.run_id, observation.row_id)
    is_first = gate["failing_since"] is None
    is_shared = not is_first and (gate["failing_run_id"], gate["failing_row_id"]) != row
    since = now if is_first else gate["failing_since"]
    run_id, row_id = (None, None) if is_shared else row
    update_gate(
        connection,
        observation.gate_id,
        failing_since=since,
        failing_run_id=run_id,
        failing_row_id=row_id,
    )
    answered_at = None if is_shared else _last_answer(connection, observation.run_id)
    return FailureSeries(since=since, is_shared=is_shared, answered_at=answered_at)


def _last_answer(connection: Connection, run_id: str) -> datetime | None:
    """Time of the last answer of the provider to a row of a run; None without one."""
    query = select(func.max(rows.c.completed_at)).where(
        rows.c.run_id == run_id,
        rows.c.status == "completed",
        rows.c.reused.is_(False),
        rows.c.answered_by.is_(None),
    )
    return connection.execute(query).scalar_one()


def _locked_gate(connection: Connection, observation: GateObservation, now: datetime) -> Mapping[Any, Any]:
    """The gate, created open if it does not exist, and locked until the transaction ends."""
    values = {
        "gate_id": observation.gate_id,
        "model_ref": observation.model_ref,
        "is_open": True,
        "changed_at": now,
        "failures": 0,
        "closures": 0,
    }
    connection.execute(insert_into(connection, gates).values(**values).on_conflict_do_nothing())
    gate = find_gate(connection, observation.gate_id, lock=True)
    assert gate is not None
    return gate


def record_completions(
    connection: Connection, observations: Sequence[GateObservation], now: datetime
) -> None:
    """Record answers at their gate, which must be the same for all; an open gate does not change."""
    for observation in observations:
        gate = find_gate(connection, observation.gate_id)
        if gate is None or (gate["is_open"] and not gate["failures"]):
            return
        gate = find_gate(connection, observation.gate_id, lock=True)
        assert gate is not None
        _record_answer(connection, gate, observation, now)


def _is_probe(gate: Mapping[Any, Any], observation: GateObservation) -> bool:
    probe = probe_name(observation.owner, observation.row_id)
    return not gate["is_open"] and gate["probe_owner"] == probe


def _close_until(
    connection: Connection,
    gate: Mapping[Any, Any],
    observation: GateObservation,
    now: datetime,
    closed_until: ClosedUntil,
) -> None:
    assert observation.error is not None
    is_probe = _is_probe(gate, observation)
    if not gate["is_open"] and gate["reset_time"] is None and not is_probe:
        return  # The gate waits for a person; the limit shows again afterwards.
    # Rows that were in flight together cause one closure, not one each.
    is_new = gate["is_open"] or is_probe
    closures = gate["closures"] + 1 if is_new else max(1, gate["closures"])
    known = None if is_new else gate["reset_time"]
    update_gate(
        connection,
        observation.gate_id,
        is_open=False,
        reset_time=max(filter(None, [closed_until(closures), known])),
        error_type=observation.error.error_type,
        error_message=message_of(observation.error),
        closures=closures,
        changed_at=now,
        **NO_PROBE,
        **NO_SUSPECT,
    )


def _record_refusal(
    connection: Connection, gate: Mapping[Any, Any], observation: GateObservation, now: datetime
) -> None:
    """Record that credentials or billing were refused."""
    assert observation.error is not None
    gate_id, row = observation.gate_id, (observation.run_id, observation.row_id)
    is_closed, error_type = not gate["is_open"], observation.error.error_type
    if is_closed and gate["reset_time"] is not None and not _is_probe(gate, observation):
        return  # The gate is closed until a time; the row is sent again afterwards.
    if _others_were_answered(connection, observation):
        release_probe(connection, gate_id, observation.owner, observation.row_id)
        errors = {observation.row_id: (error_type, message_of(observation.error))}
        fail_rows(connection, observation.run_id, errors, now=now)
        return
    suspect = (gate["suspect_run_id"], gate["suspect_row_id"])
    has_suspect = is_closed and suspect[1] is not None
    if has_suspect and suspect != row and gate["error_type"] == error_type:
        # A second row is refused in the same way: the gate waits for a person.
        update_gate(connection, gate_id, **NO_PROBE, **NO_SUSPECT)
    elif has_suspect or (is_closed and gate["reset_time"] is None):
        release_probe(connection, gate_id, observation.owner, observation.row_id)
    else:
        update_gate(
            connection,
            gate_id,
            is_open=False,
            reset_time=None,
            error_type=error_type,
            error_message=message_of(observation.error),
            changed_at=now,
            suspect_run_id=row[0],
            suspect_row_id=row[1],
            suspect_since=now,
            **NO_PROBE,
        )


def _others_were_answered(connection: Connection, observation: GateObservation) -> bool:
    """Whether this row was refused before, and other rows that were sent later were answered."""
    before = attempts.alias("before")
    query = select(
        exists().where(
            before.c.run_id == observation.run_id,
            before.c.row_id == observation.row_id,
            before.c.error_type.in_(REFUSALS),
            attempts.c.gate_id == before.c.gate_id,
            attempts.c.status == "completed",
            attempts.c.started_at > before.c.ended_at,
        )
    )
    return bool(connection.execute(query).scalar_one())


def _record_answer(
    connection: Connection, gate: Mapping[Any, Any], observation: GateObservation, now: datetime
) -> None:
    if gate["is_open"]:
        update_gate(connection, observation.gate_id, closures=0, **NO_FAILURES)
        return
    is_evidence = gate["suspect_since"] is not None and observation.started_at > gate["suspect_since"]
    if not is_evidence and not _is_probe(gate, observation):
        return
    if gate["suspect_row_id"] is not None:
        errors = {gate["suspect_row_id"]: (gate["error_type"], gate["error_message"])}
        fail_rows(connection, gate["suspect_run_id"], errors, now=now)
    update_gate(
        connection,
        observation.gate_id,
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


class Gates(Group):
    """``ledger.gates``: circuit breakers, one for each provider, model and credential."""

    get: Final = read(get_gate)
    record: Final = write(record_end)
    list: Final = read(list_gates)
    open: Final = write(open_gate)
    half_open: Final = write(half_open)
    extend_probe: Final = write(extend_probe)
    release_probe: Final = write(release_probe)
