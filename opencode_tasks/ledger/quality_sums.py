"""Share of correct answers by group: the queries behind the views of quality.

A change needs a new ``migrate.VIEWS_VERSION``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, func, not_, select

from opencode_tasks.ledger.schema import gold_values, rows, runs
from opencode_tasks.ledger.usage_sums import count_if


def _quality(by: ColumnElement[Any]) -> Select[Any]:
    """Share of correct answers by a column, which gets its label, and by field."""
    is_of_row = (gold_values.c.run_id == rows.c.run_id) & (gold_values.c.row_id == rows.c.row_id)
    known = func.count(gold_values.c.is_correct)
    correct = count_if(gold_values.c.is_correct.is_(True))
    return (
        select(
            by,
            gold_values.c.field,
            known.label("answered_rows"),
            (func.count() - known).label("unanswered_rows"),
            correct.label("correct_rows"),
            (correct * 1.0 / func.nullif(known, 0)).label("accuracy"),
        )
        .select_from(gold_values)
        .join(rows, is_of_row)
        .join(runs, runs.c.run_id == rows.c.run_id)
        .group_by(by, gold_values.c.field)
        .order_by(by, gold_values.c.field)
    )


def quality_by_run() -> Select[Any]:
    """Share of correct answers of each run and field, parts aside."""
    return _quality(gold_values.c.run_id.label("run")).where(runs.c.parent_run_id.is_(None))


def quality_by_model() -> Select[Any]:
    """Share of correct answers of each model and field, over all runs.

    The answers of several models are those in the parts of their run, which has no model itself.
    """
    has_several = runs.c.votes.is_not(None) & runs.c.model_ref.is_(None)
    model = func.coalesce(rows.c.model_ref, runs.c.model_ref).label("model")
    return _quality(model).where(not_(has_several))
