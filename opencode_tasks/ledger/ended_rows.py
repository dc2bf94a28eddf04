"""Rows that ended, as examples of rows that are not sent yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, func, not_, or_, select

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.ledger.operation_groups import Group, read
from opencode_tasks.ledger.reuse import is_reviewed
from opencode_tasks.ledger.reviewed_prompts import reviewed_prompts
from opencode_tasks.ledger.schema import is_canary, rows, runs

COMPARED_RUNS = 50
MAX_LIKE_RUNS = 5
KEYS_PER_QUERY = 5000


def like_runs(connection: Connection, model_ref: str, parameters: Mapping[str, Any]) -> list[str]:
    """Up to five of the newest runs of a model whose saved parameters have these values, newest first."""
    query = (
        select(runs.c.run_id, runs.c.parameters)
        .where(runs.c.model_ref == model_ref, runs.c.origin == "annotate", not_(is_canary))
        .order_by(runs.c.created_at.desc())
        .limit(COMPARED_RUNS)
    )
    alike = [
        run.run_id
        for run in connection.execute(query)
        if all(mapping_in(run.parameters).get(name) == value for name, value in parameters.items())
    ]
    return alike[:MAX_LIKE_RUNS]


def ended_rows(connection: Connection, run_ids: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """Up to ``limit`` rows of runs that were sent and ended, the last ones first.

    Keys: ``status``, ``prompt_chars`` (characters of the prompt and of the row's own system text; None if
    the prompt is not kept), the token columns, ``cost_pico``, ``started_at``, ``completed_at`` and
    ``duration_s``.
    """
    chars = func.length(rows.c.prompt) + func.coalesce(func.length(rows.c.system), 0)
    query = (
        select(
            chars.label("prompt_chars"),
            *(rows.c[name] for name in TOKEN_COLUMNS),
            *(rows.c[name] for name in ("status", "cost_pico", "started_at", "completed_at", "duration_s")),
        )
        .where(
            rows.c.run_id.in_(run_ids),
            rows.c.status.in_(("completed", "failed")),
            rows.c.reused.is_(False),
            rows.c.attempts > 0,
            rows.c.votes.is_(None),
        )
        .order_by(rows.c.completed_at.desc())
        .limit(limit)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def ended_rows_of_parts(connection: Connection, run_id: str) -> list[dict[str, Any]]:
    """The answers of the parts of a run to its rows that ended, by row.

    The keys are those of ``ended_rows``, and ``row_id`` and ``reused``. Open answers are left out.
    """
    of_run = rows.alias("of_run")
    chars = func.length(of_run.c.prompt) + func.coalesce(func.length(of_run.c.system), 0)
    query = (
        select(
            chars.label("prompt_chars"),
            *(rows.c[name] for name in TOKEN_COLUMNS),
            *(rows.c[name] for name in ("cost_pico", "started_at", "completed_at", "duration_s")),
            *(rows.c[name] for name in ("row_id", "status", "reused")),
        )
        .select_from(of_run)
        .join(runs, (runs.c.parent_run_id == of_run.c.run_id) & not_(is_canary))
        .join(rows, (rows.c.run_id == runs.c.run_id) & (rows.c.row_id == of_run.c.row_id))
        .where(
            of_run.c.run_id == run_id,
            of_run.c.status.in_(("completed", "failed")),
            rows.c.status.in_(("completed", "failed", "skipped")),
        )
        .order_by(rows.c.row_id)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def answered_keys(connection: Connection, keys: Sequence[str], *, refresh: bool) -> set[str]:
    """Which of these row keys have an answer that a run may reuse; with ``refresh`` that of a person."""
    found: set[str] = set()
    for start in range(0, len(keys), KEYS_PER_QUERY):
        some = keys[start : start + KEYS_PER_QUERY]
        query = select(rows.c.row_key).distinct().where(_may_reuse(some, refresh=refresh))
        found |= set(connection.execute(query).scalars())
    return found


def known_answers(
    connection: Connection, keys: Collection[str], *, refresh: bool
) -> dict[str, dict[str, Any]]:
    """The answer that a run may reuse for each of these row keys that has one.

    Columns: ``row_key``, ``status``, ``response``, ``structured`` and ``answered_by``. That of a person comes
    first, then the newest one.
    """
    names = ("row_key", "status", "response", "structured", "answered_by")
    best_last = (rows.c.reviewed_at.asc().nulls_first(), rows.c.completed_at.asc())
    found, in_order = dict[str, dict[str, Any]](), [*keys]
    for start in range(0, len(in_order), KEYS_PER_QUERY):
        some = in_order[start : start + KEYS_PER_QUERY]
        columns = [rows.c[name] for name in names]
        query = select(*columns).where(_may_reuse(some, refresh=refresh)).order_by(*best_last)
        found |= {line["row_key"]: dict(line) for line in connection.execute(query).mappings()}
    return found


def _may_reuse(keys: Sequence[str], *, refresh: bool) -> ColumnElement[bool]:
    is_of_model = rows.c.reused.is_(False) & rows.c.votes.is_(None)
    return and_(
        rows.c.row_key.in_(keys),
        rows.c.status == "completed",
        rows.c.response.is_not(None),
        is_reviewed(rows) if refresh else or_(is_of_model, is_reviewed(rows)),
    )


class EndedRows(Group):
    """``ledger.ended_rows``: what earlier rows used, and which rows and prompts have an answer."""

    like_runs: Final = read(like_runs)
    of_runs: Final = read(ended_rows)
    of_parts: Final = read(ended_rows_of_parts)
    answered: Final = read(answered_keys)
    answers: Final = read(known_answers)
    reviewed: Final = read(reviewed_prompts)
