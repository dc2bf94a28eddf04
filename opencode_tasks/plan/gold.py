"""Gold columns of INPUT: the known correct values of answers, checked before anything is sent."""

# pandas has no complete type information.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pandas as pd

from opencode_tasks.domain.answer_shape import Shape, Types, shape_of, type_of
from opencode_tasks.domain.template import template_columns
from opencode_tasks.errors import InputError
from opencode_tasks.frames.arrow_frame import column_cells
from opencode_tasks.frames.cells import json_value
from opencode_tasks.frames.columns import RESPONSE
from opencode_tasks.frames.validate import missing_column
from opencode_tasks.plan.options import Options
from opencode_tasks.quality.gold import GoldKind, comparable, kind_of

SHOWN_VALUES = 5
SHOWN_CHARS = 60
BOOLEAN = frozenset({"boolean"})
BOOLEANS: Mapping[str, bool | None] = {
    **dict.fromkeys(("true", "1", "1.0"), True),
    **dict.fromkeys(("false", "0", "0.0"), False),
    "none": None,
}
CHUNK_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class GoldField:
    """A field of the answers, and the column of its known values. ``labels`` are its allowed texts."""

    field: str
    column: str
    kind: GoldKind
    types: Types | None
    labels: tuple[str, ...]


def gold_fields(options: Options, columns: Sequence[str]) -> list[GoldField]:
    """The fields that ``--gold`` compares. Raises InputError with every fault."""
    shape = None if options.schema is None else shape_of(options.schema)
    faults: list[str] = []
    found: dict[str, GoldField] = {}
    for text in options.gold:
        try:
            one = _gold_field(text, shape, columns)
        except InputError as error:
            faults += error.faults
            continue
        if one.field in found:
            faults.append(
                f"--gold: the field {one.field} has two columns, {found[one.field].column} and {one.column}"
            )
        if one.column in _sent_columns(options):
            faults.append(
                f"--gold: the column {one.column!r} is sent to the model; take it out of the prompt"
            )
        found[one.field] = one
    if faults:
        raise InputError(tuple(faults))
    return list(found.values())


def value_faults(frame: pd.DataFrame, fields: Sequence[GoldField]) -> list[str]:
    """One line for each field with values that no answer can have, or without any value."""
    faults: list[str] = []
    for one in fields:
        values = [value for _, value in _values(frame, one)]
        if len(frame) and not values:
            faults.append(f"--gold: column {one.column!r} is empty, so no answer can be compared with it")
        wrong = Counter(_shown(value) for value in values if not _is_possible(value, one))
        if wrong:
            listed = ", ".join(f"{value!r} ({count})" for value, count in wrong.most_common(SHOWN_VALUES))
            more = f" and {len(wrong) - SHOWN_VALUES} more" if len(wrong) > SHOWN_VALUES else ""
            faults.append(
                f"--gold: column {one.column!r} has values that no answer can have: {listed}{more}; "
                f"{_answers_text(one)}"
            )
    return faults


def _shown(value: Any) -> str:
    """A value, cut to the length of a line."""
    text = str(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def _is_possible(value: Any, one: GoldField) -> bool:
    """Whether an answer can equal a gold value."""
    if one.labels:
        return comparable(value, one.kind) in {comparable(label, one.kind) for label in one.labels}
    known = _known_types(one.types)
    # Any value can be compared with a text.
    return not known or "string" in known or not known.isdisjoint(_json_types(value))


def _json_types(value: Any) -> Types:
    """The JSON types of a value; none of a number that is not finite."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        if not math.isfinite(value):
            return frozenset()
        return frozenset({"number", "integer"} if value == int(value) else {"number"})
    return frozenset({type_of(value)})


def _answers_text(one: GoldField) -> str:
    if one.labels:
        return f"the answers are {', '.join(one.labels)}"
    known = _known_types(one.types)
    names = {
        "boolean": "true and false",
        "number": "numbers",
        "integer": "whole numbers",
        "string": "texts",
        "array": 'lists, such as ["a", "b"] in JSON',
        "object": "objects in JSON",
    }
    shown = [
        text
        for name, text in names.items()
        if name in known and not (name == "integer" and "number" in known)
    ]
    return f"the answers are {' or '.join(shown)}"


def gold_cells(frame: pd.DataFrame, fields: Sequence[GoldField]) -> Iterator[tuple[int, str, Any]]:
    """Position, field and JSON value of each gold value; a row without one is left out."""
    for one in fields:
        for position, value in _values(frame, one):
            yield position, one.field, value


def _gold_field(text: str, shape: Shape | None, columns: Sequence[str]) -> GoldField:
    """The field of ``COLUMN`` or ``FIELD=COLUMN``; a column whose name has a = is found first."""
    named: Mapping[str, Types | None] = shape.fields if shape is not None and shape.is_object else {}
    if text in columns:
        field, column = None, text
    else:
        name, _, column = text.partition("=")
        field = name.strip() or None
        column = column.strip()
        if not column:
            field, column = None, text
    if column not in columns:
        raise InputError((missing_column(column, "--gold", list(columns)),))
    if field is None and len(named) > 1:
        first = next(iter(named))
        raise InputError(
            (f"--gold: the answer has the fields {', '.join(named)}; name one: --gold {first}={column}",)
        )
    field = field or next(iter(named), RESPONSE.name)
    if named and field not in named:
        raise InputError((f"--gold: the answer has no field {field!r}; it has {', '.join(named)}",))
    if not named and field != RESPONSE.name:
        raise InputError((f"--gold: the answer has no fields; write --gold {column}",))
    types: Types | None = None
    labels: tuple[str, ...] = ()
    if named and shape is not None:
        types, labels = named[field], shape.field_labels.get(field, ())
    elif shape is not None:
        types, labels = shape.types, shape.labels if shape.is_label else ()
    return GoldField(field, column, kind_of(types, labels), types, labels)


def _values(frame: pd.DataFrame, one: GoldField) -> Iterator[tuple[int, Any]]:
    at = [str(name) for name in frame.columns].index(one.column)
    for start in range(0, len(frame), CHUNK_ROWS):
        for offset, cell in enumerate(column_cells(frame.iloc[start : start + CHUNK_ROWS, at])):
            value = _typed(json_value(cell), one.types)
            if value is not None:
                yield start + offset, value


def _typed(value: Any, types: Types | None) -> Any:
    """A cell as the JSON value that it is, also in a file of texts, such as csv; None for an empty one."""
    if _known_types(types) == BOOLEAN:
        return BOOLEANS.get(str(value).strip().lower(), value) if value != "" else None
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    if types is None or "string" in types:
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    # Python's JSON has NaN, which is no value.
    return None if isinstance(found, float) and math.isnan(found) else found


def _known_types(types: Types | None) -> Types:
    return (types or frozenset[str]()) - {"null"}


def _sent_columns(options: Options) -> set[str]:
    try:
        sent = (
            {options.prompt_column} if options.template is None else set(template_columns(options.template))
        )
    except InputError:
        sent = set[str]()
    return sent | ({options.system_column} if options.system_column is not None else set())
