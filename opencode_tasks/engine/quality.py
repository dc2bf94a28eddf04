"""Quality of the answers of a run, compared with its gold values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from opencode_tasks.domain.answer_shape import shape_of
from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.frames.answer_form import answer_form
from opencode_tasks.frames.columns import RESPONSE
from opencode_tasks.ledger import GoldAnswer, GoldValue, Ledger
from opencode_tasks.plan.gold import GoldField, gold_cells
from opencode_tasks.plan.plan import Plan
from opencode_tasks.quality.gold import FieldQuality, GoldKind, comparable, kind_of, measure

CHUNK_ROWS = 10_000


def gold_values(frame: pd.DataFrame, plan: Plan) -> Iterator[GoldValue]:
    """The gold values of a plan's rows."""
    cells = gold_cells(frame, plan.gold)
    ids: dict[int, str] = {}
    for position, field, value in cells:
        if position not in ids:
            start = position - position % CHUNK_ROWS
            ids = plan.checked.rows.ids(range(start, min(start + CHUNK_ROWS, len(frame))))
        yield GoldValue(row_id=ids[position], field=field, value=value)


def measure_quality(ledger: Ledger, run_id: str, fields: Sequence[GoldField]) -> list[FieldQuality]:
    """The quality of the answers of a run so far, in each field with a gold column.

    Whether each answer equals its gold value is recorded in the ledger.
    """
    if not fields:
        return []
    schema = schema_of_run(ledger, run_id)
    return [_measure(ledger, run_id, one.field, kind_in(schema, one.field), schema) for one in fields]


def recorded_quality(ledger: Ledger, run_id: str) -> list[FieldQuality]:
    """The quality of the answers of a run in each field with gold values in the ledger; writes nothing."""
    schema = schema_of_run(ledger, run_id)
    found = ((field, ledger.gold.answers(run_id, field)) for field in fields_of(schema))
    return [
        _compare(answers, field, kind_in(schema, field), schema)[0] for field, answers in found if answers
    ]


def schema_of_run(ledger: Ledger, run_id: str) -> Mapping[str, Any] | None:
    """The schema of the answers of a run; None for texts, and if there is no such run."""
    # Without the counts of ``runs.get``, which read all rows.
    run = ledger.row_list.run(run_id)
    return None if run is None else mapping_in(run["parameters"]).get("schema")


def kind_in(schema: Mapping[str, Any] | None, field: str) -> GoldKind:
    """How the values of a field are compared."""
    if schema is None:
        return kind_of(None, ())
    shape = shape_of(schema)
    if shape.is_object:
        return kind_of(shape.fields.get(field), shape.field_labels.get(field, ()))
    return kind_of(shape.types, shape.labels)


def fields_of(schema: Mapping[str, Any] | None) -> list[str]:
    """The fields of the answers; ``response`` for answers without fields."""
    return [field.name for field in answer_form(schema).fields]


def has_answer(status: str, response: str | None) -> bool:
    """Whether a row has an answer, which may be null; a purged answer is none."""
    return status == "completed" and response is not None


def answer_in(response: str | None, structured: Any, field: str, schema: Mapping[str, Any] | None) -> Any:
    """The value of a field in the answer of a row; None for null, or if the answer lacks the field."""
    if schema is None:
        return response
    return structured if field == RESPONSE.name else mapping_in(structured).get(field)


def accuracy_with(
    ledger: Ledger, run_id: str, fields: Sequence[GoldField], others: Mapping[str, tuple[str | None, Any]]
) -> dict[str, float | None]:
    """The accuracy in each field if some rows had another answer: text and JSON value by row id.

    Nothing is recorded. The rows are those that have an answer; one whose other answer is missing (text None)
    is not correct. None without a row.
    """
    schema = schema_of_run(ledger, run_id)
    found: dict[str, float | None] = {}
    for one in fields:
        kind = kind_in(schema, one.field)
        rows = correct = 0
        for known in ledger.gold.answers(run_id, one.field):
            if not has_answer(known.status, known.response):
                continue
            response, structured = others.get(known.row_id, (known.response, known.structured))
            answer = answer_in(response, structured, one.field, schema)
            rows += 1
            correct += response is not None and comparable(known.value, kind) == comparable(answer, kind)
        found[one.field] = correct / rows if rows else None
    return found


def _measure(
    ledger: Ledger, run_id: str, field: str, kind: GoldKind, schema: Mapping[str, Any] | None
) -> FieldQuality:
    found, correct = _compare(ledger.gold.answers(run_id, field), field, kind, schema)
    ledger.gold.set_correct(run_id, ((row_id, field, is_correct) for row_id, is_correct in correct))
    return found


def _compare(
    answers: Sequence[GoldAnswer], field: str, kind: GoldKind, schema: Mapping[str, Any] | None
) -> tuple[FieldQuality, list[tuple[str, bool]]]:
    """The quality of a field, and whether each row with an answer is correct, by its id."""
    answered = [one for one in answers if has_answer(one.status, one.response)]
    pairs = [(one.value, answer_in(one.response, one.structured, field, schema)) for one in answered]
    correct = [
        (one.row_id, comparable(value, kind) == comparable(found, kind))
        for one, (value, found) in zip(answered, pairs, strict=True)
    ]
    left_out = sum(one.is_unsent and not has_answer(one.status, one.response) for one in answers)
    found = measure(field, kind, pairs, len(answers) - len(answered) - left_out)
    return replace(found, left_out=left_out), correct
