"""Gold values: the known correct values of answers, beside the answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, bindparam, literal, select

from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.review_outcomes import IS_UNSENT, model_answers
from opencode_tasks.ledger.schema import gold_values, rows

VALUES_PER_INSERT = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldValue:
    """A known value of a field of a row, as a JSON value. ``field`` is ``response`` for a whole answer."""

    row_id: str
    field: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldAnswer:
    """A gold value with the outcome that the model left in its row; ``response`` may be None.

    ``is_unsent``: a person has answered the row, and the run did not send it.
    """

    row_id: str
    field: str
    value: Any
    status: str
    response: str | None
    structured: Any
    is_unsent: bool


def insert_values(connection: Connection, run_id: str, values: Sequence[GoldValue]) -> None:
    """Write gold values of a run; existing ones are not changed."""
    statement = insert_into(connection, gold_values).on_conflict_do_nothing()
    found = [{"run_id": run_id, "row_id": v.row_id, "field": v.field, "value": v.value} for v in values]
    connection.execute(statement, found)


def input_answers(connection: Connection, run_id: str, field: str) -> list[GoldAnswer]:
    """The gold values of INPUT of a field of a run with the answers of the model, in input order.

    Values of reviews are left out: rows are reviewed because their answers are doubtful.
    """
    is_of_row = (gold_values.c.run_id == rows.c.run_id) & (gold_values.c.row_id == rows.c.row_id)
    query = (
        select(
            gold_values.c.row_id,
            gold_values.c.field,
            gold_values.c.value,
            rows.c.status,
            rows.c.response,
            rows.c.structured,
            IS_UNSENT.label("is_unsent"),
        )
        .join(rows, is_of_row)
        .where(
            gold_values.c.run_id == run_id,
            gold_values.c.field == field,
            gold_values.c.reviewed_at.is_(None),
        )
        .order_by(rows.c.position)
    )
    by_model = model_answers(connection, run_id)
    return [
        GoldAnswer(**row | (asdict(by_model[row["row_id"]]) if row["row_id"] in by_model else {}))
        for row in (dict(found) for found in connection.execute(query).mappings())
    ]


def values_of_field(
    connection: Connection, run_id: str, field: str, *, only_of_input: bool = False
) -> dict[str, Any]:
    """The gold values of a field of a run, by row id; ``only_of_input`` leaves out those of reviews."""
    query = select(gold_values.c.row_id, gold_values.c.value).where(
        gold_values.c.run_id == run_id, gold_values.c.field == field
    )
    if only_of_input:
        query = query.where(gold_values.c.reviewed_at.is_(None))
    return {line[0]: line[1] for line in connection.execute(query)}


def copy_values(connection: Connection, run_id: str, part_id: str) -> None:
    """Give the rows of a part the gold values that INPUT has for them; existing ones are not changed."""
    found = (
        select(literal(part_id), gold_values.c.row_id, gold_values.c.field, gold_values.c.value)
        .join(rows, (rows.c.run_id == part_id) & (rows.c.row_id == gold_values.c.row_id))
        .where(gold_values.c.run_id == run_id, gold_values.c.reviewed_at.is_(None))
    )
    statement = insert_into(connection, gold_values).from_select(
        ["run_id", "row_id", "field", "value"], found
    )
    connection.execute(statement.on_conflict_do_nothing())


def correct_rows(connection: Connection, run_id: str, field: str) -> set[str]:
    """The ids of the rows of a run whose answer equals the gold value of a field."""
    query = select(gold_values.c.row_id).where(
        gold_values.c.run_id == run_id, gold_values.c.field == field, gold_values.c.is_correct
    )
    return set(connection.execute(query).scalars())


def set_correct(connection: Connection, run_id: str, found: Sequence[tuple[str, str, bool]]) -> None:
    """Write whether answers equal the gold values: row id, field, and whether they do."""
    statement = (
        gold_values.update()
        .where(
            gold_values.c.run_id == run_id,
            gold_values.c.row_id == bindparam("of_row"),
            gold_values.c.field == bindparam("of_field"),
        )
        .values(is_correct=bindparam("found"))
    )
    connection.execute(
        statement,
        [{"of_row": row, "of_field": field, "found": is_correct} for row, field, is_correct in found],
    )


class Gold(Group):
    """``ledger.gold``: known correct values of answers."""

    def add(self, run_id: str, values: Iterable[GoldValue]) -> None:
        """Write gold values of a run; each transaction writes a part of them."""
        remaining = iter(values)
        while chunk := list(islice(remaining, VALUES_PER_INSERT)):
            self.database.write(lambda connection, chunk=chunk: insert_values(connection, run_id, chunk))

    def set_correct(self, run_id: str, found: Iterable[tuple[str, str, bool]]) -> None:
        """Write whether answers equal the gold values; each transaction writes a part of them."""
        remaining = iter(found)
        while chunk := list(islice(remaining, VALUES_PER_INSERT)):
            self.database.write(lambda connection, chunk=chunk: set_correct(connection, run_id, chunk))

    copy: Final = write(copy_values)
    answers: Final = read(input_answers)
    values: Final = read(values_of_field)
    correct: Final = read(correct_rows)
