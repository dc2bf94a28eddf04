"""Outcomes of rows with the reviews that count for them, and what the model left in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, case, func, or_, select

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.ledger.schema import reviews, rows, runs

# Parameter of a run that says whether each of its rows has its own examples, from reviews.
HAS_REVIEWED_EXAMPLES = "has_reviewed_examples"
MODEL = ("status", "response", "structured")
PREVIOUS = (*MODEL, "error_type", "error_message", "answered_by", "reviewed_at")

# The review that counts for a row of ``rows``.
IS_CURRENT: Final = and_(
    reviews.c.run_id == rows.c.run_id,
    reviews.c.row_id == rows.c.row_id,
    reviews.c.reviewed_at == rows.c.reviewed_at,
)


# A row that a person answered and that its run did not send.
IS_UNSENT: Final = and_(rows.c.answered_by.is_not(None), or_(rows.c.reused, rows.c.attempts == 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswer:
    """The outcome that the model left in a row; ``open`` without an answer if that is not known."""

    status: str = "open"
    response: str | None = None
    structured: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedReview:
    """The review that counts for a row, and the answer of the model."""

    row_id: str
    row_key: str
    answer: Any
    response: str | None
    answered_by: str
    reviewed_at: datetime
    note: str | None
    is_random: bool | None
    model: ModelAnswer


def previous(name: str) -> ColumnElement[Any]:
    """A column of a row before the first review."""
    return case((reviews.c.run_id.is_not(None), reviews.c[f"previous_{name}"]), else_=rows.c[name])


def reviewed_outcomes(run_id: str) -> Select[Any]:
    """The rows of a run in input order, with the reviews that count and with their earlier outcomes.

    A row that copied the answer of a person has the outcome of the model from the row with that review.
    """
    of_source, older = reviews.alias("of_source"), reviews.alias("older")
    last = select(func.max(older.c.reviewed_at)).where(
        older.c.run_id == rows.c.run_id, older.c.row_id == rows.c.row_id
    )
    is_of_source = and_(
        of_source.c.run_id == rows.c.source_run_id,
        of_source.c.row_id == rows.c.source_row_id,
        of_source.c.reviewed_at == previous("reviewed_at"),
    )
    return (
        select(
            *(rows.c[name] for name in ("row_id", "row_key", "status", "attempts", "completed_at")),
            *(reviews.c[name] for name in ("answer", "response", "answered_by", "note", "is_random")),
            reviews.c.reviewed_at,
            last.scalar_subquery().label("last_review"),
            *(previous(name).label(f"previous_{name}") for name in PREVIOUS),
            *(of_source.c[f"previous_{name}"].label(f"source_{name}") for name in MODEL),
            of_source.c.previous_answered_by.label("source_answered_by"),
        )
        .outerjoin(reviews, IS_CURRENT)
        .outerjoin(of_source, is_of_source)
        .where(rows.c.run_id == run_id)
        .order_by(rows.c.position, rows.c.row_id)
    )


def has_reviewed_examples(connection: Connection, run_id: str) -> bool:
    """Whether each row of a run has its own examples from reviews, those that a person answered aside."""
    parameters = connection.execute(select(runs.c.parameters).where(runs.c.run_id == run_id)).scalar()
    return bool(mapping_in(parameters).get(HAS_REVIEWED_EXAMPLES))


def model_answer(row: RowMapping, *, has_reviewed_examples: bool) -> ModelAnswer:
    """The answer that the model gave to a row of ``reviewed_outcomes`` with the settings of its run.

    In a run with examples from reviews, a row that copied the answer of a person has none: the model answered
    it in another run, with other examples.
    """
    if row["previous_answered_by"] is None:
        return ModelAnswer(**{name: row[f"previous_{name}"] for name in MODEL})
    if row["source_status"] is not None and row["source_answered_by"] is None and not has_reviewed_examples:
        return ModelAnswer(**{name: row[f"source_{name}"] for name in MODEL})
    return ModelAnswer()


def reviews_of_run(connection: Connection, run_id: str) -> list[RecordedReview]:
    """The reviews that count for the rows of a run, in input order."""
    names = ("row_id", "row_key", "answer", "response", "answered_by", "reviewed_at", "note", "is_random")
    found = connection.execute(reviewed_outcomes(run_id).where(reviews.c.run_id.is_not(None))).mappings()
    of_other = has_reviewed_examples(connection, run_id)
    return [
        RecordedReview(
            **{name: row[name] for name in names}, model=model_answer(row, has_reviewed_examples=of_other)
        )
        for row in found
    ]


def model_answers(connection: Connection, run_id: str) -> dict[str, ModelAnswer]:
    """The answers of the model to the rows of a run that have the answer of a person, by row id."""
    found = connection.execute(reviewed_outcomes(run_id).where(rows.c.answered_by.is_not(None))).mappings()
    of_other = has_reviewed_examples(connection, run_id)
    return {row["row_id"]: model_answer(row, has_reviewed_examples=of_other) for row in found}
