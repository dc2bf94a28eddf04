"""Reviews: answers that persons gave to rows, in place of those of the model.

A review applies to all rows of its run with the same key. The table ``reviews`` keeps all reviews; that
of a row counts if ``rows.reviewed_at`` is its time. An undo marks a review and lets an older one count again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    Connection,
    RowMapping,
    and_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
)

from opencode_tasks.domain.columns import STORED
from opencode_tasks.ledger.clock import lease_time
from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.review_outcomes import (
    PREVIOUS,
    ModelAnswer,
    has_reviewed_examples,
    model_answer,
    model_answers,
    previous,
    reviewed_outcomes,
    reviews_of_run,
)
from opencode_tasks.ledger.schema import HELD, gold_values, leases, reviews, row_update, rows, runs
from opencode_tasks.ledger.usage_sums import SUM_COLUMNS

REVIEWS_PER_WRITE = 500
# Error type of a row that was never sent, since its input is invalid. Its key says nothing about it.
INVALID = "invalid_input"
# The columns of a row that was never sent.
NEW_ROW: Final[Mapping[str, Any]] = {
    **{column.ledger_name: column.initial for column in STORED},
    **dict.fromkeys(("source_run_id", "source_row_id", "started_at", "completed_at")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """The answer of a person to a row.

    ``answer`` is a JSON value and ``response`` its text; ``is_structured`` if the run has a schema.
    ``is_random`` says whether the row was drawn at random for the review; None if that is not known.
    """

    row_id: str
    answer: Any
    response: str
    is_structured: bool
    answered_by: str
    note: str | None = None
    is_random: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewableRow:
    """The key of a row, and whether a worker processes a row with that key now."""

    row_id: str
    row_key: str
    is_in_flight: bool


GoldOf = Callable[[Any, ModelAnswer], Mapping[str, tuple[Any, bool | None]]]
"""From a person's answer and that of the model: by field, the value and whether the model has it."""


def record_reviews(
    connection: Connection, run_id: str, found: Sequence[Review], *, now: datetime, gold_of: GoldOf
) -> None:
    """Write reviews of rows of a run, and their answers into all rows with the same keys.

    Of several reviews with one key the last one counts. Gold values of INPUT are kept. Raises LookupError
    if there is no such row.
    """
    by_id = {review.row_id: review for review in found}
    query = select(rows.c.row_id, rows.c.row_key).where(
        rows.c.run_id == run_id, rows.c.row_id.in_(list(by_id))
    )
    keys = {line[0]: line[1] for line in connection.execute(query)}
    if missing := [row_id for row_id in by_id if row_id not in keys]:
        raise LookupError(f"the ledger has no row {missing[0]!r} in run {run_id!r}")
    by_key = {keys[row_id]: review for row_id, review in by_id.items()}
    has_examples = has_reviewed_examples(connection, run_id)
    recorded: list[dict[str, Any]] = []
    gold: list[dict[str, Any]] = []
    for row in _rows_to_review(connection, run_id, by_key, list(by_id)):
        review = by_key[row["row_key"]]
        is_named = row["row_id"] == review.row_id
        # Two reviews of a row have different times, also after the clock was set back.
        last = row["last_review"]
        time = now if last is None else max(now, last + timedelta(microseconds=1))
        recorded.append(
            {
                "run_id": run_id,
                "row_id": row["row_id"],
                "reviewed_at": time,
                "row_key": row["row_key"],
                "answer": review.answer,
                "response": review.response,
                "answered_by": review.answered_by,
                "note": review.note,
                "is_random": review.is_random if is_named else None,
                **{f"previous_{name}": row[f"previous_{name}"] for name in PREVIOUS},
            }
        )
        _write_answer(connection, run_id, row, review, time)
        model = model_answer(row, has_reviewed_examples=has_examples)
        gold += _gold(run_id, row["row_id"], gold_of(review.answer, model), time)
    if not recorded:
        return
    connection.execute(reviews.insert(), recorded)
    _replace_gold(connection, run_id, [one["row_id"] for one in recorded], gold)


def _rows_to_review(
    connection: Connection, run_id: str, keys: Mapping[str, Review], row_ids: Sequence[str]
) -> Sequence[RowMapping]:
    """The rows with these keys and their outcomes before the first review; they are locked."""
    query = (
        reviewed_outcomes(run_id)
        .where(
            rows.c.row_key.in_(list(keys)),
            or_(func.coalesce(previous("error_type"), "") != INVALID, rows.c.row_id.in_(row_ids)),
        )
        .order_by(None)
        .order_by(rows.c.row_key, rows.c.position)
    )
    return connection.execute(query.with_for_update(of=rows)).mappings().all()


def _write_answer(
    connection: Connection, run_id: str, row: RowMapping, review: Review, time: datetime
) -> None:
    values: dict[str, Any] = {
        "status": "completed",
        "response": review.response,
        "structured": review.answer if review.is_structured else None,
        "error_type": None,
        "error_message": None,
        "waits_until": None,
        "answered_by": review.answered_by,
        "reviewed_at": time,
    }
    if row["completed_at"] is None:
        values["completed_at"] = time
    if row["status"] in ("open", HELD) and not row["attempts"]:
        # It was never sent.
        values |= dict.fromkeys(SUM_COLUMNS, 0)
    connection.execute(row_update.values(values), {"of_run": run_id, "of_row": row["row_id"]})


def undo_review(
    connection: Connection, run_id: str, row_id: str, *, is_structured: bool, now: datetime, gold_of: GoldOf
) -> bool:
    """Undo the review that counts for a row, in all rows of the run with its key.

    The newest older review that was not undone counts again; without one, a row has the outcome before its
    first review. Returns False if no review counts for the row. The rows of other runs that copied the answer
    keep it, except those of the parts of the run, which are open again. ``is_structured`` says that the run
    has a schema.
    """
    of_key = select(rows.c.row_key).where(rows.c.run_id == run_id, rows.c.row_id == row_id)
    query = reviewed_outcomes(run_id).where(
        rows.c.row_key == of_key.scalar_subquery(), reviews.c.run_id.is_not(None)
    )
    found = connection.execute(query.with_for_update(of=rows)).mappings().all()
    if not any(row["row_id"] == row_id for row in found):
        return False
    undone = [{"of_row": row["row_id"], "of_time": row["reviewed_at"]} for row in found]
    is_undone = and_(
        reviews.c.run_id == run_id,
        reviews.c.row_id == bindparam("of_row"),
        reviews.c.reviewed_at == bindparam("of_time"),
    )
    connection.execute(reviews.update().where(is_undone).values(undone_at=now), undone)
    has_examples = has_reviewed_examples(connection, run_id)
    older = _newest_reviews(connection, run_id, [row["row_id"] for row in found])
    gold: list[dict[str, Any]] = []
    for row in found:
        before = older.get(row["row_id"])
        if before is None:
            values = {name: row[f"previous_{name}"] for name in PREVIOUS}
            if values["status"] in ("open", HELD):
                values["completed_at"] = None
        else:
            values = {name: before[name] for name in ("response", "answered_by", "reviewed_at")}
            values["structured"] = before["answer"] if is_structured else None
            of_answer = gold_of(before["answer"], model_answer(row, has_reviewed_examples=has_examples))
            gold += _gold(run_id, row["row_id"], of_answer, before["reviewed_at"])
        connection.execute(row_update.values(values), {"of_run": run_id, "of_row": row["row_id"]})
    _replace_gold(connection, run_id, [row["row_id"] for row in found], gold)
    _reopen_in_parts(connection, run_id, [row["row_id"] for row in found if row["row_id"] not in older])
    return True


def _reopen_in_parts(connection: Connection, run_id: str, row_ids: Sequence[str]) -> None:
    """Open the rows of parts that copied the answers of persons to these rows of their run."""
    of_parts = select(runs.c.run_id).where(runs.c.parent_run_id == run_id)
    has_copy = and_(
        rows.c.run_id.in_(of_parts),
        rows.c.row_id.in_(row_ids),
        rows.c.source_run_id == run_id,
        rows.c.answered_by.is_not(None),
    )
    part_ids = connection.execute(select(rows.c.run_id).distinct().where(has_copy)).scalars().all()
    # A part that has ended is continued with its run.
    has_ended = runs.c.run_id.in_(part_ids) & runs.c.status.in_(("completed", "failed"))
    connection.execute(runs.update().where(has_ended).values(status="interrupted", ended_at=None))
    connection.execute(rows.update().where(has_copy).values(NEW_ROW))


def _newest_reviews(connection: Connection, run_id: str, row_ids: Sequence[str]) -> dict[str, RowMapping]:
    """The newest review of each row that was not undone."""
    query = select(reviews).where(
        reviews.c.run_id == run_id, reviews.c.row_id.in_(row_ids), reviews.c.undone_at.is_(None)
    )
    found = connection.execute(query.order_by(reviews.c.reviewed_at)).mappings()
    return {one["row_id"]: one for one in found}


def _gold(
    run_id: str, row_id: str, values: Mapping[str, tuple[Any, bool | None]], time: datetime
) -> list[dict[str, Any]]:
    """The gold values that a review gives a row, as lines of the table."""
    return [
        {
            "run_id": run_id,
            "row_id": row_id,
            "field": field,
            "value": value,
            "is_correct": is_correct,
            "reviewed_at": time,
        }
        for field, (value, is_correct) in values.items()
    ]


def _replace_gold(
    connection: Connection, run_id: str, row_ids: Sequence[str], gold: Sequence[dict[str, Any]]
) -> None:
    """Write the gold values of reviews of rows in place of those of earlier reviews."""
    connection.execute(
        delete(gold_values).where(
            gold_values.c.run_id == run_id,
            gold_values.c.row_id.in_(row_ids),
            gold_values.c.reviewed_at.is_not(None),
        )
    )
    if gold:
        connection.execute(insert_into(connection, gold_values).on_conflict_do_nothing(), gold)


def review_answers(connection: Connection, run_id: str) -> dict[str, list[tuple[Any, str, str | None]]]:
    """All reviews of each row of a run, replaced and undone ones too: the answer, the person and the note."""
    names = ("row_id", "answer", "answered_by", "note")
    found: dict[str, list[tuple[Any, str, str | None]]] = {}
    query = select(*(reviews.c[name] for name in names)).where(reviews.c.run_id == run_id)
    for row_id, answer, person, note in connection.execute(query):
        found.setdefault(row_id, []).append((answer, person, note))
    return found


def reviewable_rows(connection: Connection, run_id: str, row_ids: Sequence[str]) -> list[ReviewableRow]:
    """These rows of a run, as far as they exist."""
    is_leased = exists().where(
        leases.c.row_key == rows.c.row_key,
        leases.c.owner.is_not(None),
        leases.c.expires_at > lease_time(connection),
    )
    is_open = rows.c.status.in_(("open", HELD))
    query = select(rows.c.row_id, rows.c.row_key, and_(is_open, is_leased).label("is_in_flight")).where(
        rows.c.run_id == run_id, rows.c.row_id.in_(row_ids)
    )
    return [ReviewableRow(**row) for row in connection.execute(query).mappings()]


class Reviews(Group):
    """``ledger.reviews``: answers of persons."""

    def record(self, run_id: str, found: Sequence[Review], *, now: datetime, gold_of: GoldOf) -> None:
        """Write reviews by ``record_reviews``. Each transaction writes a part of them."""
        for start in range(0, len(found), REVIEWS_PER_WRITE):
            chunk = found[start : start + REVIEWS_PER_WRITE]
            self.database.write(
                lambda connection, chunk=chunk: record_reviews(
                    connection, run_id, chunk, now=now, gold_of=gold_of
                )
            )

    def rows(self, run_id: str, row_ids: Sequence[str]) -> list[ReviewableRow]:
        """These rows of a run, as far as they exist."""
        found: list[ReviewableRow] = []
        for start in range(0, len(row_ids), REVIEWS_PER_WRITE):
            chunk = row_ids[start : start + REVIEWS_PER_WRITE]
            found += self.database.read(
                lambda connection, chunk=chunk: reviewable_rows(connection, run_id, chunk)
            )
        return found

    undo: Final = write(undo_review)
    of_run: Final = read(reviews_of_run)
    answers: Final = read(review_answers)
    model_answers: Final = read(model_answers)
