"""Share of correct answers by group: the queries behind the views of quality.

A change needs a new ``migrate.VIEWS_VERSION``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, func, select

from opencode_tasks.ledger.schema import gold_values, rows, runs
from opencode_tasks.ledger.usage_sums import count_if


def _quality(*by: ColumnElement[Any]) -> Select[Any]:
    """Share of correct answers by columns, which get their labels, and by field."""
    is_of_row = (gold_values.c.run_id == rows.c.run_id) & (gold_values.c.row_id == rows.c.row_id)
    known = func.count(gold_values.c.is_correct)
    correct = count_if(gold_values.c.is_correct.is_(True))
    return (
        select(
            *by,
            gold_values.c.field,
            known.label("answered_rows"),
            (func.count() - known).label("unanswered_rows"),
            correct.label("correct_rows"),
            (correct * 1.0 / func.nullif(known, 0)).label("accuracy"),
        )
        .select_from(gold_values)
        .join(rows, is_of_row)
        .join(runs, runs.c.run_id == rows.c.run_id)
        .group_by(*by, gold_values.c.field)
        .order_by(*by, gold_values.c.field)
    )


def quality_by_run() -> Select[Any]:
    """Share of correct answers of each run and field."""
    return _quality(gold_values.c.run_id.label("run"))


def quality_of_runs() -> Select[Any]:
    """``quality_by_run`` with the model and the time of each run, the newest run first."""
    query = _quality(
        gold_values.c.run_id.label("run"),
        runs.c.model_ref.label("model"),
        runs.c.created_at.label("created_at"),
    )
    return query.order_by(None).order_by(runs.c.created_at.desc(), gold_values.c.run_id, gold_values.c.field)


def votes_of_runs() -> Select[Any]:
    """Votes of each run with several answers to a row, the newest run first.

    ``rows`` are decided, ``agreement`` is the mean of theirs, ``needs_review`` and ``escalated`` count them.
    """
    return (
        select(
            runs.c.run_id.label("run"),
            runs.c.model_ref.label("model"),
            runs.c.created_at,
            runs.c.votes,
            func.count(rows.c.votes).label("rows"),
            func.avg(rows.c.agreement).label("agreement"),
            count_if(rows.c.needs_review.is_(True)).label("needs_review"),
            count_if(rows.c.escalated.is_(True)).label("escalated"),
        )
        .join(rows, rows.c.run_id == runs.c.run_id)
        .where(runs.c.votes.is_not(None), rows.c.votes.is_not(None))
        .group_by(runs.c.run_id)
        .order_by(runs.c.created_at.desc(), runs.c.run_id)
    )


def quality_by_model() -> Select[Any]:
    """Share of correct answers of each model and field, over all runs."""
    return _quality(func.coalesce(rows.c.model_ref, runs.c.model_ref).label("model"))
