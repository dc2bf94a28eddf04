"""Share of correct answers by group, and canaries by run: the queries behind the views of quality.

A change needs a new ``migrate.VIEWS_VERSION``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, and_, case, cast, func, not_, select

from opencode_tasks.ledger.review_outcomes import IS_UNSENT
from opencode_tasks.ledger.schema import canaries, gold_values, is_canary, rows, runs
from opencode_tasks.ledger.sql_functions import Dollars, RowName
from opencode_tasks.ledger.usage_sums import count_if


def _shares(
    by: Sequence[ColumnElement[Any]], field: ColumnElement[Any], is_correct: ColumnElement[Any]
) -> Select[Any]:
    """Share of correct answers by columns, which get their labels, and by field."""
    known = func.count(is_correct)
    correct = count_if(is_correct.is_(True))
    return (
        select(
            *by,
            field,
            known.label("answered_rows"),
            (func.count() - known).label("unanswered_rows"),
            correct.label("correct_rows"),
            (correct * 1.0 / func.nullif(known, 0)).label("accuracy"),
        )
        .group_by(*by, field)
        .order_by(*by, field)
    )


def _of_gold(query: Select[Any]) -> Select[Any]:
    """A query of gold values with their rows and runs, canaries and rows of persons alone aside."""
    is_of_row = (gold_values.c.run_id == rows.c.run_id) & (gold_values.c.row_id == rows.c.row_id)
    return (
        query.select_from(gold_values)
        .join(rows, is_of_row)
        .join(runs, runs.c.run_id == rows.c.run_id)
        .where(not_(is_canary), not_(and_(IS_UNSENT, gold_values.c.is_correct.is_(None))))
    )


def _quality(*by: ColumnElement[Any]) -> Select[Any]:
    """Share of correct answers of the rows of runs."""
    return _of_gold(_shares(by, gold_values.c.field, gold_values.c.is_correct))


def quality_by_run() -> Select[Any]:
    """Share of correct answers of each run and field, parts aside."""
    return _quality(gold_values.c.run_id.label("run")).where(runs.c.parent_run_id.is_(None))


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


def quality_by_model(since: datetime | None = None) -> Select[Any]:
    """Share of correct answers of each model and field, over all runs, or those that began since a time.

    An answer that later runs reuse counts once, with the gold value of the newest run that compared it. The
    answers of several models are those in the parts of their run, which has no model itself.
    """
    has_several = runs.c.votes.is_not(None) & runs.c.model_ref.is_(None)
    # A reused answer has the session of its source. Answers of the backend null have none.
    source = RowName(
        func.coalesce(rows.c.source_run_id, rows.c.run_id), func.coalesce(rows.c.source_row_id, rows.c.row_id)
    )
    rank = func.row_number().over(
        partition_by=(func.coalesce(rows.c.session_id, source), gold_values.c.field),
        order_by=(
            case((gold_values.c.is_correct.is_(None), 1), else_=0),
            runs.c.created_at.desc(),
            rows.c.run_id,
            rows.c.position,
        ),
    )
    query = _of_gold(
        select(
            func.coalesce(rows.c.model_ref, runs.c.model_ref).label("model"),
            gold_values.c.field,
            gold_values.c.is_correct,
            rank.label("rank"),
        )
    ).where(not_(has_several))
    if since is not None:
        query = query.where(runs.c.created_at >= since)
    of = query.subquery("answers")
    return _shares((of.c.model,), of.c.field, of.c.is_correct).where(of.c.rank == 1)


def canary_by_run() -> Select[Any]:
    """Measures of the canaries of each run."""
    is_completed = rows.c.status == "completed"
    input_tokens = rows.c.input_tokens + rows.c.cache_read_tokens + rows.c.cache_write_tokens
    of_rows = (
        select(
            rows.c.run_id,
            func.count().label("rows"),
            count_if(not_(is_completed)).label("failed_rows"),
            func.avg(case((is_completed, input_tokens * 1.0))).label("input_tokens_per_row"),
            func.avg(case((is_completed, (rows.c.output_tokens + rows.c.reasoning_tokens) * 1.0))).label(
                "output_tokens_per_row"
            ),
            func.avg(case((is_completed, rows.c.cost_pico * 1.0))).label("cost_pico_per_row"),
        )
        .group_by(rows.c.run_id)
        .subquery("of_rows")
    )
    known = func.count(gold_values.c.is_correct)
    correct = count_if(gold_values.c.is_correct.is_(True))
    of_gold = (
        select(gold_values.c.run_id, (correct * 1.0 / func.nullif(known, 0)).label("accuracy"))
        .group_by(gold_values.c.run_id)
        .subquery("of_gold")
    )
    return (
        select(
            runs.c.parent_run_id.label("run"),
            canaries.c.series,
            canaries.c.measured_at,
            runs.c.deployment,
            runs.c.model_ref.label("model"),
            of_rows.c.rows,
            of_rows.c.failed_rows,
            canaries.c.changed_rows,
            canaries.c.compared_rows,
            of_gold.c.accuracy,
            of_rows.c.input_tokens_per_row,
            of_rows.c.output_tokens_per_row,
            Dollars(cast(of_rows.c.cost_pico_per_row, BigInteger)).label("cost_usd_per_row"),
            canaries.c.has_drift,
        )
        .select_from(canaries)
        .join(runs, runs.c.run_id == canaries.c.run_id)
        .join(of_rows, of_rows.c.run_id == canaries.c.run_id)
        .outerjoin(of_gold, of_gold.c.run_id == canaries.c.run_id)
        .order_by(canaries.c.measured_at, canaries.c.run_id)
    )
