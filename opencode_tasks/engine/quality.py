"""Quality of the answers of a run, compared with its gold values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from opencode_tasks.domain.answer_shape import shape_of
from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.frames.columns import RESPONSE
from opencode_tasks.ledger import GoldAnswer, GoldValue, Ledger
from opencode_tasks.plan.gold import gold_cells
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


def measure_quality(ledger: Ledger, run_id: str) -> list[FieldQuality]:
    """The quality of each field of a run with gold values; [] without any.

    Whether each answer equals its gold value is recorded in the ledger.
    """
    answers = ledger.gold.answers(run_id)
    if not answers:
        return []
    schema = schema_of_run(ledger, run_id)
    return [
        _measure(
            ledger,
            run_id,
            field,
            kind_in(schema, field),
            [answer for answer in answers if answer.field == field],
            is_text=schema is None,
        )
        for field in dict.fromkeys(answer.field for answer in answers)
    ]


def schema_of_run(ledger: Ledger, run_id: str) -> Mapping[str, Any] | None:
    """The schema of the answers of a run; None for texts, and if there is no such run."""
    run = ledger.runs.get(run_id)
    return None if run is None else mapping_in(run["parameters"]).get("schema")


def kind_in(schema: Mapping[str, Any] | None, field: str) -> GoldKind:
    """How the values of a field are compared."""
    if schema is None:
        return kind_of(None, ())
    shape = shape_of(schema)
    if shape.is_object:
        return kind_of(shape.fields.get(field), shape.field_labels.get(field, ()))
    return kind_of(shape.types, shape.labels)


def answer_in(outcome: Mapping[str, Any], field: str, *, is_text: bool) -> Any:
    """The value of a field in the outcome of a row, by the ledger's columns; None without an answer."""
    if outcome["status"] != "completed":
        return None
    if is_text:
        return outcome["response"]
    structured = outcome["structured"]
    return structured if field == RESPONSE.name else mapping_in(structured).get(field)


def _measure(
    ledger: Ledger, run_id: str, field: str, kind: GoldKind, answers: Sequence[GoldAnswer], *, is_text: bool
) -> FieldQuality:
    pairs = [(one.value, answer_in(asdict(one), field, is_text=is_text)) for one in answers]
    ledger.gold.set_correct(
        run_id,
        [
            (
                answer.row_id,
                field,
                None if found is None else comparable(value, kind) == comparable(found, kind),
            )
            for answer, (value, found) in zip(answers, pairs, strict=True)
        ],
    )
    answered = [(value, found) for value, found in pairs if found is not None]
    return measure(field, kind, answered, len(pairs) - len(answered))
