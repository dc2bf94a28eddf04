"""What the ledger tells: pure queries, each row a dict of its columns or a small value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, exists, func, not_, select

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.errors import error_types
from opencode_tasks.ledger.attempts import unpacked
from opencode_tasks.ledger.schema import attempts, inner_retries, rows, runs, sessions, usage
from opencode_tasks.ledger.totals import cost_source, settled, sums

# An attempt that was stopped with its run has this as its error.
INTERRUPTED = "interrupted"
# Attempts that ended so were not the row's fault.
FREE = (*error_types(lambda reaction: not reaction.uses_attempt), INTERRUPTED)
CUT_OFF = error_types(lambda reaction: reaction.counter == "cut_off_answers")
LIMITED = error_types(lambda reaction: reaction.counter == "rate_limits")
STATUSES = ("open", "completed", "failed", "skipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRow:
    """A row that has not ended; ``attempts`` counts those begun, whatever became of them.

    ``used`` counts those that failed by the row's own account or died, ``cut_off`` the answers cut
    among them. ``limited`` counts rate limits, the first of which was met at ``limited_since``.
    """

    row_id: str
    row_key: str
    prompt: str
    attempts: int
    waits_until: datetime | None
    position: int
    used: int = 0
    cut_off: int = 0
    limited: int = 0
    limited_since: datetime | None = None
    error_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanedAttempt:
    """An attempt that has no end: it runs, or its process died. ``schema`` is that of its run."""

    attempt_id: str
    run_id: str
    row_id: str
    row_key: str
    owner: str
    session_id: str | None
    data_dir: str | None
    schema: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Rows of a run by status, and what the run bought so far, each step once, reused answers not.

    ``reused`` counts among the ended. A token count or ``cost_pico`` is None where a part of it is
    unknown; ``known_cost_pico`` is the sum of the known parts and ``unknown_attempts`` counts the
    attempts (running ones included) that may have bought more than their steps say.
    """

    total: int
    open: int
    completed: int
    failed: int
    skipped: int
    reused: int
    input_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cost_pico: int | None
    known_cost_pico: int
    unknown_attempts: int


def _counted_attempts(run_id: str) -> Select[Any]:
    return (
        select(
            attempts.c.row_id,
            func.count().label("tried"),
            _counted(attempts.c.error_type.not_in(FREE) | attempts.c.error_type.is_(None)).label("used"),
            _counted(attempts.c.error_type.in_(CUT_OFF)).label("cut_off"),
            _counted(attempts.c.error_type.in_(LIMITED)).label("limited"),
            func.min(case((attempts.c.error_type.in_(LIMITED), attempts.c.started_at))).label(
                "limited_since"
            ),
        )
        .where(attempts.c.run_id == run_id)
        .group_by(attempts.c.row_id)
    )


def attempt_counts(connection: Connection, run_id: str, row_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By row what an OpenRow tells of its attempts, but their number; for rows that have any."""
    if not row_ids:
        return {}
    query = _counted_attempts(run_id).where(attempts.c.row_id.in_(row_ids))
    names = ("used", "cut_off", "limited", "limited_since")
    return {
        row["row_id"]: {name: row[name] for name in names} for row in connection.execute(query).mappings()
    }


def orphaned_attempts(connection: Connection, run_id: str, host: str) -> list[OrphanedAttempt]:
    """The attempts without an end on a host, of any run, at keys of a run's open rows; oldest first."""
    names = ("attempt_id", "run_id", "row_id", "row_key", "owner", "session_id", "data_dir")
    query = (
        select(*(attempts.c[name] for name in names), runs.c.parameters)
        .join(runs, runs.c.run_id == attempts.c.run_id)
        .where(
            attempts.c.ended_at.is_(None),
            attempts.c.host == host,
            exists().where(
                rows.c.row_key == attempts.c.row_key, rows.c.run_id == run_id, rows.c.status == "open"
            ),
        )
        .order_by(attempts.c.started_at)
    )
    return [
        OrphanedAttempt(
            **{name: row[name] for name in names}, schema=mapping_in(row["parameters"]).get("schema")
        )
        for row in connection.execute(query).mappings()
    ]


def ended_attempts(connection: Connection, attempt_ids: Collection[str]) -> list[str]:
    """Those of these attempts that have an end."""
    query = select(attempts.c.attempt_id).where(
        attempts.c.attempt_id.in_(list(attempt_ids)), attempts.c.ended_at.is_not(None)
    )
    return list(connection.execute(query).scalars())


def open_count(connection: Connection, run_id: str) -> int:
    """How many rows of a run are open."""
    query = select(func.count()).where(rows.c.run_id == run_id, rows.c.status == "open")
    return connection.execute(query).scalar_one()


def progress(connection: Connection, run_id: str) -> Progress:
    """The run's progress; all zeros for one that is not there."""
    counts = _counts(connection, [run_id])[run_id]
    return Progress(**counts)


def _counts(connection: Connection, run_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    by_status = select(
        rows.c.run_id,
        func.count().label("total"),
        *(_counted(rows.c.status == status).label(status) for status in STATUSES),
        _counted(rows.c.reused).label("reused"),
    )
    unknown = select(attempts.c.run_id, _counted(not_(attempts.c.usage_known)).label("unknown"))
    sold = select(usage.c.run_id, *sums())

    def each(query: Any, run: ColumnElement[str]) -> dict[str, Mapping[Any, Any]]:
        found = connection.execute(query.where(run.in_(run_ids)).group_by(run)).mappings()
        return {row["run_id"]: row for row in found}

    counted = each(by_status, rows.c.run_id)
    unsure = each(unknown, attempts.c.run_id)
    bought = each(sold, usage.c.run_id)
    result: dict[str, dict[str, Any]] = {}
    for run_id in run_ids:
        counts = {name: counted.get(run_id, {}).get(name, 0) for name in ("total", *STATUSES, "reused")}
        unknown_attempts = unsure.get(run_id, {}).get("unknown", 0)
        found: Mapping[Any, Any] = bought.get(run_id, {"steps": 0})
        result[run_id] = {
            **counts,
            **settled(found, unknown_attempts),
            "known_cost_pico": found.get("cost_pico", 0),
            "unknown_attempts": unknown_attempts,
        }
    return result


def _counted(claim: Any) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((claim, 1), else_=0)), 0)


def _dicts(connection: Connection, query: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]


def outcomes(connection: Connection, run_id: str, span: range | None = None) -> list[dict[str, Any]]:
    """Every column of the run's rows but the prompt, in input order; those at positions in ``span``."""
    columns = [column for column in rows.c if column.name not in ("run_id", "prompt")]
    query = select(*columns).where(rows.c.run_id == run_id)
    if span is not None:
        query = query.where(rows.c.position >= span.start, rows.c.position < span.stop)
    return _dicts(connection, query.order_by(rows.c.position, rows.c.row_id))


def usage_of(connection: Connection, run_id: str) -> list[dict[str, Any]]:
    """Every column of the run's steps, oldest first, those without a time first or last."""
    query = select(usage).where(usage.c.run_id == run_id)
    return _dicts(connection, query.order_by(usage.c.ended_at, usage.c.session_id, usage.c.step_id))


def attempts_table(connection: Connection, run_id: str) -> list[dict[str, Any]]:
    """Every column of the run's attempts, oldest first."""
    query = select(attempts).where(attempts.c.run_id == run_id)
    return _dicts(connection, query.order_by(attempts.c.started_at, attempts.c.attempt_id))


def first_ended(connection: Connection, run_id: str, since: datetime) -> tuple[datetime, datetime] | None:
    """Start and end of the attempt that ended first of those begun since a moment; None without one."""
    query = (
        select(attempts.c.started_at, attempts.c.ended_at)
        .where(attempts.c.run_id == run_id, attempts.c.started_at >= since, attempts.c.ended_at.is_not(None))
        .order_by(attempts.c.ended_at)
        .limit(1)
    )
    found = connection.execute(query).one_or_none()
    return None if found is None else (found.started_at, found.ended_at)


def newest_runs(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """The newest runs first: their columns and those of ``Progress``."""
    query = select(runs).order_by(runs.c.created_at.desc(), runs.c.run_id.desc()).limit(limit)
    found = _dicts(connection, query)
    counts = _counts(connection, [row["run_id"] for row in found])
    return [row | counts[row["run_id"]] for row in found]


def one_run(connection: Connection, run_id: str) -> dict[str, Any] | None:
    """One run as ``newest_runs`` shows it, None where there is none."""
    found = _dicts(connection, select(runs).where(runs.c.run_id == run_id))
    return found[0] | _counts(connection, [run_id])[run_id] if found else None


def row_story(connection: Connection, run_id: str, row_id: str) -> dict[str, Any] | None:
    """All that the ledger knows of a row, None where there is none."""

    def of(table: Any, *order: Any) -> list[dict[str, Any]]:
        mine = (table.c.run_id == run_id) & (table.c.row_id == row_id)
        return _dicts(connection, select(table).where(mine).order_by(*order))

    row = of(rows)
    if not row:
        return None
    tried = of(attempts, attempts.c.started_at, attempts.c.attempt)
    ids = [attempt["attempt_id"] for attempt in tried]
    retried = select(inner_retries).where(inner_retries.c.attempt_id.in_(ids))
    talked = of(sessions, sessions.c.parent_id.is_not(None), sessions.c.session_id)
    return {
        "row": row[0],
        "attempts": tried,
        "sessions": [session | {"messages": unpacked(session["messages"])} for session in talked],
        "usage": of(usage, usage.c.ended_at, usage.c.step_id),
        "inner_retries": _dicts(
            connection, retried.order_by(inner_retries.c.session_id, inner_retries.c.number)
        ),
    }


def cost(connection: Connection, run_id: str) -> list[dict[str, Any]]:
    """What the run bought by ``model_ref``, each step once.

    ``rows`` counts the rows with a step on that model, ``steps`` its calls. ``failed_cost_pico`` is
    the part of attempts that did not complete. Sums are None where a step's value is unknown.
    """
    wasted = attempts.c.status != "completed"
    failed = case((wasted, usage.c.cost_pico), else_=0)
    grouped = (
        select(
            usage.c.model_ref,
            func.count(usage.c.row_id.distinct()).label("rows"),
            *sums(),
            func.coalesce(func.sum(failed), 0).label("failed"),
            func.count(failed).label("known_failed"),
        )
        .join(attempts, attempts.c.attempt_id == usage.c.attempt_id)
        .where(usage.c.run_id == run_id)
        .group_by(usage.c.model_ref)
        .order_by(usage.c.model_ref)
    )
    return [_cost_line(found) for found in connection.execute(grouped).mappings()]


def _cost_line(found: Mapping[Any, Any]) -> dict[str, Any]:
    known = found["known_failed"] == found["steps"]
    return {
        "model_ref": found["model_ref"],
        "rows": found["rows"],
        "steps": found["steps"],
        **settled(found, 0),
        "cost_source": cost_source(found),
        "failed_cost_pico": int(found["failed"]) if known else None,
    }


def run_status(connection: Connection, run_id: str) -> str | None:
    """A run's status by its key: this is asked every second."""
    return connection.execute(select(runs.c.status).where(runs.c.run_id == run_id)).scalar_one_or_none()
