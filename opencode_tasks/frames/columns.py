"""Columns that OUTPUT adds to the input, with those of a schema's fields.

The columns themselves are declared in ``domain.columns``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from opencode_tasks.domain.answer_shape import shape_of
from opencode_tasks.domain.columns import (
    AFTER_FIELDS,
    ESCALATED,
    OUTPUT,
    RESPONSE,
    SCHEMA_FIELDS,
    VOTE_COLUMNS,
    WORK_COLUMNS,
    Column,
    Dtype,
)

__all__ = ["OUTPUT", "RESPONSE", "SCHEMA_FIELDS", "Column", "Dtype", "output_columns"]

# Columns of each of several models beside its answer.
OF_MODELS = ("status", "cost_usd")


def output_columns(
    schema: Mapping[str, Any] | None,
    prefix: str | None = None,
    *,
    has_votes: bool = False,
    has_escalation: bool = False,
    models: Sequence[str] = (),
    has_workspace: bool = False,
) -> tuple[Column, ...]:
    """The columns that OUTPUT adds for this schema, in order; ``prefix`` precedes the name of each.

    If the answers are not objects, the first column is the value of the answer, else its text. Each of
    several ``models`` has columns of its own, named ``COLUMN@MODEL``: the fields of the schema, or the
    response without fields, the status and the cost.
    """
    shape = shape_of(schema) if schema is not None else None
    fields = tuple(
        Column(
            name=name,
            dtype=_dtype(types),
            meaning=f"The field {name} of the answer.",
            stored_as=SCHEMA_FIELDS.ledger_name,
            field=name,
        )
        for name, types in (shape.fields.items() if shape else ())
    )
    response = RESPONSE
    if shape is not None and not shape.is_object:
        response = replace(RESPONSE, dtype=_dtype(shape.types), stored_as=SCHEMA_FIELDS.ledger_name)
    columns = (response, *fields, *AFTER_FIELDS, *(VOTE_COLUMNS if has_votes else ()))
    if has_escalation:
        columns = (*columns, ESCALATED)
    if has_workspace:
        columns = (*columns, *WORK_COLUMNS)
    answers = (*(fields or (response,)), *(column for column in columns if column.name in OF_MODELS))
    columns = (*columns, *(_of_model(column, model) for column in answers for model in models))
    if not prefix:
        return columns
    return tuple(
        replace(column, name=prefix + column.name, stored_as=column.ledger_name) for column in columns
    )


def _of_model(column: Column, model: str) -> Column:
    """The column with the value that one of several models has in ``column``."""
    name, meaning = f"{column.name}@{model}", f"The column {column.name} of the answer of {model}."
    return replace(column, name=name, meaning=meaning, stored_as=column.ledger_name, model=model)


def _dtype(types: Collection[str] | None) -> Dtype:
    """The type of a column whose values have these JSON types, null aside; object for several or unknown."""
    match sorted(set(types or ()) - {"null"}):
        case ["string"]:
            return "string"
        case ["boolean"]:
            return "boolean"
        case ["integer"]:
            return "Int64"
        case ["integer", "number"] | ["number"]:
            return "Float64"
        case _:
            return "object"
