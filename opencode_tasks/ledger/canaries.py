"""Canaries of runs: the part of a run that sends them, what they answered, and what they showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, func, select

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.runs import PREPARING
from opencode_tasks.ledger.schema import CANARY_PART, canaries, gold_values, rows, runs
from opencode_tasks.ledger.usage_sums import count_if

# Enough for the usual range, also if some runs have a drift.
MAX_MEASURED_RUNS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryPart:
    """The part of a run that sends its canaries; ``report`` is None before they are measured."""

    run_id: str
    status: str
    report: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """The canaries of a run: ``run_id`` is the run, ``part_id`` the part of it that sent them."""

    run_id: str
    part_id: str
    changed_rows: int
    compared_rows: int
    has_drift: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Results of the canaries of a run. ``report`` is a JSON object."""

    series: str
    changed_rows: int
    compared_rows: int
    has_drift: bool
    report: Mapping[str, Any]


def canary_part(connection: Connection, run_id: str) -> CanaryPart | None:
    """The part with the canaries of a run; None if there is none, or if it has sent nothing."""
    query = (
        select(runs.c.run_id, runs.c.status, canaries.c.report)
        .outerjoin(canaries, canaries.c.run_id == runs.c.run_id)
        .where(runs.c.parent_run_id == run_id, runs.c.part == CANARY_PART, runs.c.status != PREPARING)
        .order_by(runs.c.created_at)
        .limit(1)
    )
    found = connection.execute(query).mappings().one_or_none()
    return None if found is None else CanaryPart(**found)


def measured_runs(connection: Connection, series: str, *, but: str) -> list[MeasuredRun]:
    """The newest runs of a series, without the part ``but``, in the order in which they were measured."""
    query = (
        select(
            func.coalesce(runs.c.parent_run_id, runs.c.run_id).label("run_id"),
            canaries.c.run_id.label("part_id"),
            *(canaries.c[name] for name in ("changed_rows", "compared_rows", "has_drift")),
        )
        .join(runs, runs.c.run_id == canaries.c.run_id)
        .where(canaries.c.series == series, canaries.c.run_id != but)
        .order_by(canaries.c.measured_at.desc(), canaries.c.run_id)
        .limit(MAX_MEASURED_RUNS)
    )
    return [MeasuredRun(**found) for found in connection.execute(query).mappings()][::-1]


def canary_rows(connection: Connection, part_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The canaries of parts by the id of the part, in input order.

    Keys: ``position``, ``status``, the token columns and ``cost_pico``.
    """
    names = ("position", "status", *TOKEN_COLUMNS, "cost_pico")
    query = (
        select(rows.c.run_id, *(rows.c[name] for name in names))
        .where(rows.c.run_id.in_(part_ids))
        .order_by(rows.c.run_id, rows.c.position)
    )
    found: dict[str, list[dict[str, Any]]] = {part_id: [] for part_id in part_ids}
    for line in connection.execute(query).mappings():
        found[line["run_id"]].append({name: line[name] for name in names})
    return found


def canary_answers(connection: Connection, part_id: str) -> dict[int, tuple[str, Any]]:
    """The answers of the canaries of a part by position, as text and JSON value; purged ones are left out."""
    query = select(rows.c.position, rows.c.response, rows.c.structured).where(
        rows.c.run_id == part_id, rows.c.status == "completed", rows.c.response.is_not(None)
    )
    return {row.position: (row.response, row.structured) for row in connection.execute(query)}


def correct_counts(connection: Connection, part_ids: Sequence[str]) -> dict[str, dict[str, tuple[int, int]]]:
    """The number of correct answers and of compared ones, by the id of the part and by field."""
    query = (
        select(
            gold_values.c.run_id,
            gold_values.c.field,
            count_if(gold_values.c.is_correct),
            func.count(gold_values.c.is_correct),
        )
        .where(gold_values.c.run_id.in_(part_ids))
        .group_by(gold_values.c.run_id, gold_values.c.field)
        .order_by(gold_values.c.run_id, gold_values.c.field)
    )
    found: dict[str, dict[str, tuple[int, int]]] = {part_id: {} for part_id in part_ids}
    for part_id, field, correct, known in connection.execute(query):
        found[part_id][field] = (int(correct), int(known))
    return found


def record(connection: Connection, part_id: str, measurement: Measurement, *, now: datetime) -> bool:
    """Write what the canaries of a part showed; False if that is written already."""
    values = {
        "run_id": part_id,
        "measured_at": now,
        "series": measurement.series,
        "changed_rows": measurement.changed_rows,
        "compared_rows": measurement.compared_rows,
        "has_drift": measurement.has_drift,
        "report": dict(measurement.report),
    }
    written = insert_into(connection, canaries).values(**values).on_conflict_do_nothing()
    return bool(connection.execute(written).rowcount)


def report_of(connection: Connection, run_id: str) -> Mapping[str, Any] | None:
    """Results of the canaries of a run, as ``CanaryPart.report``; None without canaries."""
    part = canary_part(connection, run_id)
    return None if part is None or part.report is None else mapping_in(part.report)


class Canaries(Group):
    """``ledger.canaries``: rows that each run sends anew, and what they showed."""

    part: Final = read(canary_part)
    measured_runs: Final = read(measured_runs)
    rows: Final = read(canary_rows)
    answers: Final = read(canary_answers)
    correct: Final = read(correct_counts)
    report: Final = read(report_of)
    record: Final = write(record)
