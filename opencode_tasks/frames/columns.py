"""Columns that OUTPUT adds to the input, with those of a schema's fields.

The columns themselves are declared in ``domain.columns``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from opencode_tasks.domain.answer_schema import schema_columns
from opencode_tasks.domain.columns import AFTER_FIELDS, OUTPUT, RESPONSE, SCHEMA_FIELDS, Column, Dtype

__all__ = ["OUTPUT", "RESPONSE", "SCHEMA_FIELDS", "Column", "Dtype", "output_columns"]

_FIELD_DTYPES: Mapping[str, Dtype] = {
    "string": "string",
    "integer": "Int64",
    "number": "Float64",
    "boolean": "boolean",
}


def output_columns(schema: Mapping[str, Any] | None) -> tuple[Column, ...]:
    """The columns that OUTPUT adds for this schema, in order."""
    fields = (
        Column(name=name, dtype=_field_dtype(schema, name), meaning=f"The field {name} of the answer.")
        for name in schema_columns(schema)
    )
    return (RESPONSE, *fields, *AFTER_FIELDS)


def _field_dtype(schema: Mapping[str, Any] | None, name: str) -> Dtype:
    """The field's own type if the schema names one simple type (null aside), else objects."""
    declared: Any = (schema or {})["properties"][name]
    kind: Any = cast("Mapping[str, Any]", declared).get("type") if isinstance(declared, Mapping) else None
    kinds = cast("list[Any]", kind) if isinstance(kind, list) else [kind]
    named = [item for item in kinds if item != "null"]
    return _FIELD_DTYPES.get(named[0], "object") if len(named) == 1 else "object"
