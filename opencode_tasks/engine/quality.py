"""Quality of the answers of a run, compared with its gold values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    run = ledger.runs.get(run_id)
    schema = None if run is None else mapping_in(run["parameters"]).get("schema")
    shape = None if schema is None else shape_of(schema)
    found: list[FieldQuality] = []
    for field in dict.fromkeys(answer.field for answer in answers):
        of_field = [answer for answer in answers if answer.field == field]
        if shape is None:
            kind: GoldKind = kind_of(None, ())
        elif shape.is_object:
            kind = kind_of(shape.fields.get(field), shape.field_labels.get(field, ()))
        else:
            kind = kind_of(shape.types, shape.labels)
        found.append(_measure(ledger, run_id, field, kind, of_field, is_text=schema is None))
    return found


def _measure(
    ledger: Ledger, run_id: str, field: str, kind: GoldKind, answers: Sequence[GoldAnswer], *, is_text: bool
) -> FieldQuality:
    pairs = [(answer.value, _answer(answer, field, is_text=is_text)) for answer in answers]
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


def _answer(answer: GoldAnswer, field: str, *, is_text: bool) -> object:
    """The value to compare; None without an answer."""
    if answer.status != "completed":
        return None
    if is_text:
        return answer.response
    return answer.structured if field == RESPONSE.name else mapping_in(answer.structured).get(field)
