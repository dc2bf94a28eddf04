"""Runs and their rows as they begin and end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, or_, select

from opencode_tasks.domain.json_values import mapping_in, text_in
from opencode_tasks.domain.records import RowInput
from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.schema import flow_runs, rows, runs
from opencode_tasks.ledger.types import storable

RunStatus = Literal["running", "completed", "failed", "interrupted"]
UNFINISHED = ("running", "interrupted", "waiting", "paused")

CHUNK = 5000


def create_run(connection: Connection, values: Mapping[str, Any]) -> None:
    """Write a run; one that exists stays as it is."""
    connection.execute(insert_into(connection, runs).values(**values).on_conflict_do_nothing())
    for flow_run_id in values["flow_run_ids"]:
        _link(connection, values["run_id"], flow_run_id)


def _link(connection: Connection, run_id: str, flow_run_id: str) -> None:
    link = insert_into(connection, flow_runs).values(flow_run_id=flow_run_id, run_id=run_id)
    connection.execute(link.on_conflict_do_nothing())


def find_run(connection: Connection, flow_run_id: str, input_fingerprint: str) -> str | None:
    """The run that a flow run began over this input, the newest of several."""
    return newest_of(connection, flow_run_id, runs.c.input_fingerprint == input_fingerprint)


def newest_of(connection: Connection, flow_run_id: str, condition: ColumnElement[bool]) -> str | None:
    """The newest of the runs that a flow run worked on and that a condition holds for."""
    query = (
        select(runs.c.run_id)
        .join(flow_runs, flow_runs.c.run_id == runs.c.run_id)
        .where(flow_runs.c.flow_run_id == flow_run_id, condition)
        .order_by(runs.c.created_at.desc())
        .limit(1)
    )
    return connection.execute(query).scalar_one_or_none()


def newest_unfinished(connection: Connection) -> str | None:
    """The run that was created last among those that can be resumed."""
    query = select(runs.c.run_id).where(runs.c.status.in_(UNFINISHED))
    return connection.execute(query.order_by(runs.c.created_at.desc()).limit(1)).scalar_one_or_none()


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepingRun:
    """A run that waits for a moment, ``waits_until``; ``output`` is None where it writes none."""

    run_id: str
    flow_run_ids: Sequence[str]
    waits_until: datetime
    output: str | None
    refresh: bool


def sleeping_runs(connection: Connection, deployment: str | None) -> list[SleepingRun]:
    """The runs of a deployment that wait for a moment, the newest first."""
    query = (
        select(runs)
        .where(runs.c.status == "waiting", runs.c.deployment == deployment)
        .order_by(runs.c.created_at.desc())
    )
    return [
        SleepingRun(
            run_id=run.run_id,
            flow_run_ids=run.flow_run_ids or [],
            waits_until=run.waits_until,
            output=text_in(mapping_in(mapping_in(run.parameters).get("command")).get("output")),
            refresh=run.refresh,
        )
        for run in connection.execute(query)
    ]


def row_keys(connection: Connection, run_id: str) -> frozenset[str]:
    """The keys of a run's rows."""
    return frozenset(connection.execute(select(rows.c.row_key).where(rows.c.run_id == run_id)).scalars())


def pause_run(connection: Connection, run_id: str, *, until: datetime | None, reason: str) -> None:
    """Write that a run waits until a moment, or (None) for a person."""
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


def mark_running(connection: Connection, run_id: str) -> None:
    """Write that a run is running (again)."""
    connection.execute(
        runs.update()
        .where(runs.c.run_id == run_id)
        .values(status="running", ended_at=None, waits_until=None, pause_reason=None, refused_pico=None)
    )


def end_run(connection: Connection, run_id: str, *, status: RunStatus, now: datetime) -> None:
    """Write how a run ended; the first of equal ends keeps its moment."""
    connection.execute(
        runs.update()
        .where(runs.c.run_id == run_id, or_(runs.c.ended_at.is_(None), runs.c.status != status))
        .values(status=status, ended_at=now, waits_until=None, pause_reason=None)
    )


def add_flow_run(connection: Connection, run_id: str, flow_run_id: str) -> None:
    """Write that a flow run works on the run, which is running (again) from here on."""
    found = connection.execute(
        select(runs.c.flow_run_ids).where(runs.c.run_id == run_id).with_for_update()
    ).one_or_none()
    if found is None:
        raise LookupError(f"the ledger has no run {run_id!r}")
    known: list[str] = found.flow_run_ids or []
    both = known if flow_run_id in known else [*known, flow_run_id]
    connection.execute(runs.update().where(runs.c.run_id == run_id).values(flow_run_ids=both))
    _link(connection, run_id, flow_run_id)
    mark_running(connection, run_id)


def add_rows(connection: Connection, run_id: str, inputs: Iterable[RowInput]) -> None:
    """Write the rows of a run as open; those that exist stay as they are."""
    statement = insert_into(connection, rows).on_conflict_do_nothing()
    left = iter(inputs)
    while chunk := list(islice(left, CHUNK)):
        connection.execute(statement, [_new_row(run_id, row) for row in chunk])


def _new_row(run_id: str, row: RowInput) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "row_id": row.row_id,
        "position": row.position,
        "row_key": row.row_key,
        "prompt": row.prompt,
        # PostgreSQL's JSON functions, which the views use, stop at NUL.
        "labels": {storable(name): storable(value) for name, value in row.labels.items()},
        "status": "open",
        "attempts": 0,
        "reused": False,
    }
