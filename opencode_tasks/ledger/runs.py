"""Runs: their parameters, status and flow runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, func, literal, or_, select

from opencode_tasks.domain.flow_call import FlowCall
from opencode_tasks.domain.hold import PILOT_MARK
from opencode_tasks.domain.json_values import list_in, mapping_in, text_in
from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.progress import counts_by_run, progress, silent_providers
from opencode_tasks.ledger.schema import flow_runs, rows, runs

EndStatus = Literal["completed", "failed", "interrupted"]
# Of a run whose rows are not all written: it cannot be resumed.
PREPARING = "preparing"
# Name under which a run saves the names of several models.
MODELS = "models"
# Name under which a run saves the system text that most of its rows are sent with.
SYSTEM_TEXT = "system_text"
# Name under which a run with parts saves its pilot.
PILOT_ROWS = "pilot_rows"
# Name under which a run saves the call of a flow run that worked on it last.
FLOW_CALL = "flow_call"
UNFINISHED = ("running", "interrupted", "waiting", "paused")


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRun:
    """A run that waits until a time. ``output`` is its OUTPUT, None if it writes none.

    ``flow_run_ids`` are the flow runs that worked on it, in the order in which they began. ``models`` are the
    names of several models.
    """

    run_id: str
    flow_run_ids: Sequence[str]
    waits_until: datetime
    output: str | None
    refresh: bool
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotRows:
    """The pilot of a run with parts: the positions of its rows, and whether the other rows may be sent."""

    positions: Sequence[int]
    is_approved: bool


def system_text_in(parameters: Any) -> str | None:
    """The system text of the rows of a run that have none of their own, as it is sent; None if not known.

    If it was purged, it is the text of the user, without examples and instructions.
    """
    saved = mapping_in(parameters)
    return text_in(saved.get(SYSTEM_TEXT)) or text_in(saved.get("system"))


def models_in(parameters: Any) -> tuple[str, ...]:
    """The names of the several models in the parameters of a run; empty for another run."""
    return tuple(str(name) for name in list_in(mapping_in(parameters).get(MODELS)))


def create_run(
    connection: Connection,
    *,
    run_id: str,
    parameters: Mapping[str, Any],
    model_ref: str | None,
    backend: str,
    opencode_version: str | None,
    deployment: str | None,
    flow_run_id: str | None,
    input_fingerprint: str,
    row_count: int,
    refresh: bool,
    now: datetime,
    max_cost_pico: int | None = None,
    series: str | None = None,
    votes: int | None = None,
    parent_run_id: str | None = None,
    part: int | None = None,
) -> None:
    """Write a run with the status ``preparing``; an existing run with this id is not changed.

    Write its rows, then call ``ready_run``: a run that a crash leaves in between is not found by a resume.
    """
    values = {
        "run_id": run_id,
        "parameters": dict(parameters),
        "model_ref": model_ref,
        "backend": backend,
        "opencode_version": opencode_version,
        "deployment": deployment,
        "input_fingerprint": input_fingerprint,
        "row_count": row_count,
        "refresh": refresh,
        "max_cost_pico": max_cost_pico,
        "series": series,
        "votes": votes,
        "parent_run_id": parent_run_id,
        "part": part,
        "created_at": now,
        "status": PREPARING,
    }
    insert_run(connection, values)
    if flow_run_id is not None:
        _link_flow_run(connection, run_id, flow_run_id)


def ready_run(connection: Connection, run_id: str) -> None:
    """Set the status of a run to ``running``, once all its rows are written."""
    is_preparing = (runs.c.run_id == run_id) & (runs.c.status == PREPARING)
    connection.execute(runs.update().where(is_preparing).values(status="running"))


def insert_run(connection: Connection, values: Mapping[str, Any]) -> None:
    """Write a run by the columns of ``runs``; an existing run is not changed."""
    connection.execute(insert_into(connection, runs).values(**values).on_conflict_do_nothing())


def _link_flow_run(connection: Connection, run_id: str, flow_run_id: str) -> None:
    position = select(func.count()).where(flow_runs.c.run_id == run_id).scalar_subquery()
    link = insert_into(connection, flow_runs).from_select(
        ["flow_run_id", "run_id", "position"], select(literal(flow_run_id), literal(run_id), position)
    )
    connection.execute(link.on_conflict_do_nothing())


def add_flow_run(connection: Connection, run_id: str, flow_run_id: str) -> None:
    """Record that a flow run works on a run, and set the run's status to ``running``.

    Raises LookupError if there is no such run.
    """
    locked = select(runs.c.run_id).where(runs.c.run_id == run_id).with_for_update()
    if connection.execute(locked).first() is None:
        raise LookupError(f"the ledger has no run {run_id!r}")
    _link_flow_run(connection, run_id, flow_run_id)
    resume_run(connection, run_id)


def find_run(connection: Connection, flow_run_id: str, input_fingerprint: str) -> str | None:
    """The newest run over this input that the flow run worked on, parts aside; None without one."""
    return newest_of_flow_run(connection, flow_run_id, _is_over(input_fingerprint))


def take_run(connection: Connection, call: FlowCall, input_fingerprint: str) -> str | None:
    """The oldest run over this input that a call of a flow run continues, parts aside; None without one.

    The call is saved in the run, so that no other call of the same execution continues it.
    """
    query = (
        select(runs.c.run_id, runs.c.parameters)
        .join(flow_runs, flow_runs.c.run_id == runs.c.run_id)
        .where(flow_runs.c.flow_run_id == call.flow_run_id, _is_over(input_fingerprint))
        .order_by(runs.c.created_at, runs.c.run_id)
        .with_for_update(of=runs)
    )
    for run in connection.execute(query).all():
        parameters = mapping_in(run.parameters)
        if call.continues(FlowCall.of_json(parameters.get(FLOW_CALL))):
            values = {**parameters, FLOW_CALL: call.as_json()}
            connection.execute(runs.update().where(runs.c.run_id == run.run_id).values(parameters=values))
            return run.run_id
    return None


def _is_over(input_fingerprint: str) -> ColumnElement[bool]:
    """Condition of the runs over an input whose rows are all written, parts aside."""
    is_whole = (runs.c.status != PREPARING) & runs.c.parent_run_id.is_(None)
    return is_whole & (runs.c.input_fingerprint == input_fingerprint)


def saved_command(connection: Connection, flow_run_id: str) -> Mapping[str, Any]:
    """The saved options of the newest run that a flow run worked on; empty without one."""
    run_id = newest_of_flow_run(connection, flow_run_id, runs.c.status != PREPARING)
    parameters = connection.execute(
        select(runs.c.parameters).where(runs.c.run_id == run_id)
    ).scalar_one_or_none()
    return mapping_in(mapping_in(parameters).get("command"))


def newest_of_flow_run(
    connection: Connection, flow_run_id: str, condition: ColumnElement[bool]
) -> str | None:
    """The newest run that a flow run worked on and that meets a condition; None without one."""
    query = (
        select(runs.c.run_id)
        .join(flow_runs, flow_runs.c.run_id == runs.c.run_id)
        .where(flow_runs.c.flow_run_id == flow_run_id, condition)
        .order_by(runs.c.created_at.desc())
        .limit(1)
    )
    return connection.execute(query).scalar_one_or_none()


def held_pilot(connection: Connection, input_fingerprint: str, output: str | None) -> str | None:
    """The newest run over this input and with this OUTPUT that a person must continue after its pilot.

    None without one. Runs of deployments are continued in Prefect and do not count.
    """
    query = (
        select(runs.c.run_id, runs.c.parameters)
        .where(
            runs.c.input_fingerprint == input_fingerprint,
            runs.c.status == "paused",
            runs.c.pause_reason.contains(PILOT_MARK),
            runs.c.deployment.is_(None),
            runs.c.parent_run_id.is_(None),
        )
        .order_by(runs.c.created_at.desc())
    )
    found = connection.execute(query).all()
    return next((run.run_id for run in found if _output_in(run.parameters) == output), None)


def pilot_rows(connection: Connection, run_id: str) -> PilotRows | None:
    """The pilot of a run with parts; None if none was drawn."""
    query = select(runs.c.parameters).where(runs.c.run_id == run_id)
    return _pilot_in(connection.execute(query).scalar_one_or_none())


def begin_pilot(connection: Connection, run_id: str, positions: Sequence[int]) -> PilotRows:
    """Save the rows of the pilot of a run; returns those of the process that was first."""
    parameters = _locked_parameters(connection, run_id)
    if (found := _pilot_in(parameters)) is None:
        found = PilotRows(positions=positions, is_approved=False)
        _save_pilot(connection, run_id, parameters, found)
    return found


def approve_pilot(connection: Connection, run_id: str) -> None:
    """Save that the rows after the pilot of a run may be sent."""
    parameters = _locked_parameters(connection, run_id)
    if (found := _pilot_in(parameters)) is not None:
        _save_pilot(connection, run_id, parameters, replace(found, is_approved=True))


def _pilot_in(parameters: Any) -> PilotRows | None:
    found = mapping_in(mapping_in(parameters).get(PILOT_ROWS))
    if not found:
        return None
    return PilotRows(positions=list_in(found.get("positions")), is_approved=found.get("is_approved") is True)


def _save_pilot(connection: Connection, run_id: str, parameters: Mapping[str, Any], pilot: PilotRows) -> None:
    values = {**parameters, PILOT_ROWS: asdict(pilot)}
    connection.execute(runs.update().where(runs.c.run_id == run_id).values(parameters=values))


def _locked_parameters(connection: Connection, run_id: str) -> Mapping[str, Any]:
    query = select(runs.c.parameters).where(runs.c.run_id == run_id).with_for_update()
    return mapping_in(connection.execute(query).scalar_one_or_none())


def _output_in(parameters: Any) -> str | None:
    """OUTPUT in the parameters of a run; None if it writes none."""
    return text_in(mapping_in(mapping_in(parameters).get("command")).get("output"))


def newest_unfinished(connection: Connection) -> str | None:
    """The newest run that has not ended and is no part of another; None without one.

    A run that only its own program can continue is returned if there is no other.
    """
    query = select(runs.c.run_id, runs.c.parameters, runs.c.deployment).where(
        runs.c.status.in_(UNFINISHED), runs.c.parent_run_id.is_(None)
    )
    found = connection.execute(query.order_by(runs.c.created_at.desc())).all()
    can_be_resumed = (run.run_id for run in found if run.deployment or resumable_command(run.parameters))
    return next(can_be_resumed, found[0].run_id if found else None)


def resumable_command(parameters: Any) -> Mapping[str, Any]:
    """The saved options in the parameters of a run; empty if they do not prepare the run again.

    An opencode config that was given as a value is not saved.
    """
    command = mapping_in(mapping_in(parameters).get("command"))
    return {} if isinstance(command.get("opencode_config"), dict) else command


def beginning_with(connection: Connection, text: str, limit: int) -> list[str]:
    """Up to ``limit`` ids of runs that begin with a text, newest first; parts of other runs are left out."""
    query = (
        select(runs.c.run_id)
        .where(runs.c.run_id.startswith(text, autoescape=True), runs.c.parent_run_id.is_(None))
        .order_by(runs.c.created_at.desc(), runs.c.run_id.desc())
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def run_status(connection: Connection, run_id: str) -> str | None:
    """The status of a run; None if there is no such run."""
    # One lookup by the primary key: workers ask every second.
    return connection.execute(select(runs.c.status).where(runs.c.run_id == run_id)).scalar_one_or_none()


def get_run(connection: Connection, run_id: str) -> dict[str, Any] | None:
    """One run in the form of ``newest_runs``; None if there is no such run."""
    found = connection.execute(select(runs).where(runs.c.run_id == run_id)).mappings().all()
    return next(iter(_with_counts(connection, found)), None)


def newest_runs(connection: Connection, limit: int = 50) -> list[dict[str, Any]]:
    """Up to ``limit`` runs that are no parts of others, newest first, one dict each.

    Keys: every column of ``runs``, ``flow_run_ids`` (in the order in which they began) and the
    fields of ``Progress``.
    """
    query = (
        select(runs)
        .where(runs.c.parent_run_id.is_(None))
        .order_by(runs.c.created_at.desc(), runs.c.run_id.desc())
        .limit(limit)
    )
    return _with_counts(connection, connection.execute(query).mappings().all())


def _with_counts(connection: Connection, found: Sequence[Mapping[Any, Any]]) -> list[dict[str, Any]]:
    run_ids = [run["run_id"] for run in found]
    counts, ids = counts_by_run(connection, run_ids), _flow_run_ids(connection, run_ids)
    return [{**run, "flow_run_ids": ids[run["run_id"]], **counts[run["run_id"]]} for run in found]


def _flow_run_ids(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {run_id: [] for run_id in run_ids}
    query = select(flow_runs).where(flow_runs.c.run_id.in_(run_ids))
    for link in connection.execute(query.order_by(flow_runs.c.run_id, flow_runs.c.position)):
        found[link.run_id].append(link.flow_run_id)
    return found


def waiting_runs(connection: Connection, deployment: str | None) -> list[WaitingRun]:
    """The runs of a deployment that wait until a time, parts aside, newest first."""
    is_whole = runs.c.parent_run_id.is_(None)
    query = (
        select(runs)
        .where(runs.c.status == "waiting", runs.c.deployment == deployment, is_whole)
        .order_by(runs.c.created_at.desc())
    )
    found = connection.execute(query).all()
    ids = _flow_run_ids(connection, [run.run_id for run in found])
    return [
        WaitingRun(
            run_id=run.run_id,
            flow_run_ids=ids[run.run_id],
            waits_until=run.waits_until,
            output=_output_in(run.parameters),
            refresh=run.refresh,
            models=models_in(run.parameters),
        )
        for run in found
    ]


def pause_run(connection: Connection, run_id: str, *, until: datetime | None, reason: str) -> None:
    """Set a run's status to ``waiting`` (until a time), or to ``paused`` (None: until a person acts)."""
    connection.execute(
        runs.update()
        .where(runs.c.run_id == run_id)
        .values(
            status="paused" if until is None else "waiting",
            waits_until=until,
            pause_reason=reason,
            ended_at=None,
        )
    )


def resume_run(connection: Connection, run_id: str, *, by_person_at: datetime | None = None) -> None:
    """Set a run's status to ``running`` and remove what it waited for.

    ``by_person_at`` is the time at which a person resumed it; None without one.
    """
    connection.execute(
        runs.update()
        .where(runs.c.run_id == run_id)
        .values(
            status="running",
            ended_at=None,
            waits_until=None,
            pause_reason=None,
            refused_pico=None,
            resumed_at=runs.c.resumed_at if by_person_at is None else by_person_at,
        )
    )


def last_progress(connection: Connection, run_id: str) -> datetime | None:
    """When a row of a run ended last, or a person resumed or started the run later than that.

    None if there is no such run.
    """
    ended = select(func.max(rows.c.completed_at)).where(rows.c.run_id == run_id, rows.c.reused.is_(False))
    run = select(runs.c.created_at, runs.c.resumed_at).where(runs.c.run_id == run_id)
    found = connection.execute(run).one_or_none()
    if found is None:
        return None
    last = connection.execute(ended).scalar_one()
    return max(time for time in (found.created_at, found.resumed_at, last) if time is not None)


def end_run(connection: Connection, run_id: str, *, status: EndStatus, now: datetime) -> None:
    """Write how a run ended; the same end written again keeps its first time."""
    connection.execute(
        runs.update()
        .where(runs.c.run_id == run_id, or_(runs.c.ended_at.is_(None), runs.c.status != status))
        .values(status=status, ended_at=now, waits_until=None, pause_reason=None)
    )


class Runs(Group):
    """``ledger.runs``: create, pause, resume, end and find runs."""

    create: Final = write(create_run)
    ready: Final = write(ready_run)
    add_flow_run: Final = write(add_flow_run)
    pause: Final = write(pause_run)
    resume: Final = write(resume_run)
    end: Final = write(end_run)
    get: Final = read(get_run)
    status: Final = read(run_status)
    progress: Final = read(progress)
    silent_providers: Final = read(silent_providers)
    newest: Final = read(newest_runs)
    newest_unfinished: Final = read(newest_unfinished)
    beginning_with: Final = read(beginning_with)
    held_pilot: Final = read(held_pilot)
    pilot: Final = read(pilot_rows)
    begin_pilot: Final = write(begin_pilot)
    approve_pilot: Final = write(approve_pilot)
    find: Final = read(find_run)
    take: Final = write(take_run)
    saved_command: Final = read(saved_command)
    waiting: Final = read(waiting_runs)
