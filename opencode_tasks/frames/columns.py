"""Columns that OUTPUT adds to the columns of INPUT: names, types and meanings.

A column for each field of the schema follows ``response``. The id of a row is not added: it is the id
column of INPUT, or the position of the row. The reference page is generated from this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from opencode_tasks.domain.answer_schema import schema_columns

Dtype = Literal["string", "Int64", "Float64", "float64", "boolean", "datetime64[us, UTC]", "object"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """An added column with its pandas ``dtype``. ``meaning`` describes the values and what null means."""

    name: str
    dtype: Dtype
    meaning: str


RESPONSE = Column(name="response", dtype="string", meaning="Text of the answer; null if there is none.")

AFTER_FIELDS = (
    Column(name="status", dtype="string", meaning="completed, failed, skipped or open."),
    Column(name="error_type", dtype="string", meaning="Type of the last error; null if there was none."),
    Column(
        name="error_message",
        dtype="string",
        meaning="Message of the last error, from the provider or opencode.",
    ),
    Column(
        name="waits_until",
        dtype="datetime64[us, UTC]",
        meaning="Time at which an open row may be sent again; null if it does not wait for a time.",
    ),
    Column(name="finish_reason", dtype="string", meaning="Why the model stopped; null if unknown."),
    Column(name="session_id", dtype="string", meaning="opencode's root session of the last attempt."),
    Column(
        name="attempts", dtype="Int64", meaning="Number of attempts; retries inside opencode are not counted."
    ),
    Column(name="turns", dtype="Int64", meaning="Number of assistant messages in the last attempt."),
    Column(name="model_ref", dtype="string", meaning="Model of the answer as provider/model."),
    Column(
        name="input_tokens", dtype="Int64", meaning="Uncached input tokens of all attempts; null if unknown."
    ),
    Column(name="cache_read_tokens", dtype="Int64", meaning="Input tokens read from the provider's cache."),
    Column(name="cache_write_tokens", dtype="Int64", meaning="Input tokens written to the provider's cache."),
    Column(name="output_tokens", dtype="Int64", meaning="Output tokens without reasoning."),
    Column(name="reasoning_tokens", dtype="Int64", meaning="Reasoning tokens."),
    Column(name="cost_usd", dtype="float64", meaning="Cost of all attempts in US dollars; null if unknown."),
    Column(name="cost_source", dtype="string", meaning="Source of the cost: reported, computed or unpriced."),
    Column(
        name="reused", dtype="boolean", meaning="Whether the answer is reused from an earlier run or row."
    ),
    Column(
        name="duration_s", dtype="float64", meaning="Duration of all attempts in seconds; null if unknown."
    ),
)

OUTPUT = (RESPONSE, *AFTER_FIELDS)

_FIELD_DTYPES: Mapping[str, Dtype] = {
    "string": "string",
    "integer": "Int64",
    "number": "Float64",
    "boolean": "boolean",
}


def output_columns(schema: Mapping[str, Any] | None) -> tuple[Column, ...]:
    """Return the columns that OUTPUT adds for this schema, in order; None is no schema."""
    fields = (
        Column(name=name, dtype=_field_dtype(schema, name), meaning=f"Field {name} of the answer.")
        for name in schema_columns(schema)
    )
    return (RESPONSE, *fields, *AFTER_FIELDS)


def _field_dtype(schema: Mapping[str, Any] | None, name: str) -> Dtype:
    """Return the type of a field with one simple type (null not counted), else ``object``."""
    declared: Any = (schema or {})["properties"][name]
    found: Any = cast("Mapping[str, Any]", declared).get("type") if isinstance(declared, Mapping) else None
    types = cast("list[Any]", found) if isinstance(found, list) else [found]
    types = [name for name in types if name != "null"]
    return _FIELD_DTYPES.get(types[0], "object") if len(types) == 1 else "object"
