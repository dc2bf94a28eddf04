"""OUTPUT's own columns as data: names, types and meanings; the reference page is made from it.

OUTPUT keeps the input's columns and their order and adds these, with one column per schema field
after ``response``. ``row_id`` is not among them: it is the input's id column, or the position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from opencode_tasks.domain.answer_schema import schema_columns

Dtype = Literal["string", "Int64", "Float64", "float64", "boolean", "datetime64[us, UTC]", "object"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column that we add: its pandas ``dtype`` and, in ``meaning``, what it holds and null means."""

    name: str
    dtype: Dtype
    meaning: str


RESPONSE = Column(name="response", dtype="string", meaning="The answer; null for a row without one.")

AFTER_FIELDS = (
    Column(name="status", dtype="string", meaning="completed, failed, skipped or open."),
    Column(name="error_type", dtype="string", meaning="What went wrong last; null where nothing did."),
    Column(name="error_message", dtype="string", meaning="The provider's or opencode's words for it."),
    Column(
        name="waits_until",
        dtype="datetime64[us, UTC]",
        meaning="When an open row may run again; null where it waits for no moment.",
    ),
    Column(name="finish_reason", dtype="string", meaning="Why the model stopped; null where unknown."),
    Column(name="session_id", dtype="string", meaning="opencode's root session of the last attempt."),
    Column(name="attempts", dtype="Int64", meaning="Executions of the row by us."),
    Column(name="turns", dtype="Int64", meaning="Assistant messages of the last attempt."),
    Column(name="model_ref", dtype="string", meaning="provider/model that answered."),
    Column(name="input_tokens", dtype="Int64", meaning="Uncached input, all attempts; null unknown."),
    Column(name="cache_read_tokens", dtype="Int64", meaning="Input read from the provider's cache."),
    Column(name="cache_write_tokens", dtype="Int64", meaning="Input written to the provider's cache."),
    Column(name="output_tokens", dtype="Int64", meaning="Output without reasoning."),
    Column(name="reasoning_tokens", dtype="Int64", meaning="Reasoning output."),
    Column(name="cost_usd", dtype="float64", meaning="US dollars, all attempts; null unknown, never 0."),
    Column(name="cost_source", dtype="string", meaning="reported, computed or unpriced."),
    Column(name="reused", dtype="boolean", meaning="Whether the answer was taken over from before."),
    Column(name="duration_s", dtype="float64", meaning="Seconds of work on the row; null unknown."),
)

OUTPUT = (RESPONSE, *AFTER_FIELDS)

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
    """The field's own type where the schema names one simple type (null aside), else objects."""
    declared: Any = (schema or {})["properties"][name]
    kind: Any = cast("Mapping[str, Any]", declared).get("type") if isinstance(declared, Mapping) else None
    kinds = cast("list[Any]", kind) if isinstance(kind, list) else [kind]
    named = [item for item in kinds if item != "null"]
    return _FIELD_DTYPES.get(named[0], "object") if len(named) == 1 else "object"
