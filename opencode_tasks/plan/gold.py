"""Gold columns of INPUT: the known correct values of answers, checked before anything is sent."""

# pandas has no complete type information.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from opencode_tasks.domain.answer_shape import Shape, Types, shape_of
from opencode_tasks.domain.template import template_columns
from opencode_tasks.errors import InputError
from opencode_tasks.frames.arrow_frame import column_cells
from opencode_tasks.frames.cells import json_value
from opencode_tasks.frames.columns import RESPONSE
from opencode_tasks.plan.options import Options
from opencode_tasks.quality.gold import GoldKind, comparable, kind_of

SHOWN_VALUES = 5
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
    """One line for each field with values that no answer can have."""
    faults: list[str] = []
    for one in fields:
        if not one.labels:
            continue
        allowed = {comparable(label, one.kind) for label in one.labels}
        values = Counter(
            str(value) for _, value in _values(frame, one) if comparable(value, one.kind) not in allowed
        )
        if values:
            listed = ", ".join(f"{value!r} ({count})" for value, count in values.most_common(SHOWN_VALUES))
            more = f" and {len(values) - SHOWN_VALUES} more" if len(values) > SHOWN_VALUES else ""
            faults.append(
                f"--gold: column {one.column!r} has values that no answer can have: {listed}{more}; "
                f"the answers are {', '.join(one.labels)}"
            )
    return faults


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
        listed = ", ".join(map(repr, columns[:20]))
        raise InputError((f"--gold: INPUT has no column {column!r}; it has {listed}",))
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
    if named:
        types = named[field]
        labels = shape.field_labels.get(field, ()) if shape is not None else ()
    else:
        types, labels = (shape.types, shape.labels) if shape is not None else (None, ())
    return GoldField(field, column, kind_of(types, labels), types, labels)


def _values(frame: pd.DataFrame, one: GoldField) -> Iterator[tuple[int, Any]]:
    at = [str(name) for name in frame.columns].index(one.column)
    for start in range(0, len(frame), CHUNK_ROWS):
        for offset, cell in enumerate(column_cells(frame.iloc[start : start + CHUNK_ROWS, at])):
            value = _typed(json_value(cell), one.types)
            if value is not None:
                yield start + offset, value


def _typed(value: Any, types: Types | None) -> Any:
    """A cell of a file of texts, such as csv, as the JSON value that it is; None for an empty one."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    if types is None or "string" in types:
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _sent_columns(options: Options) -> set[str]:
    try:
        sent = (
            {options.prompt_column} if options.template is None else set(template_columns(options.template))
        )
    except InputError:
        sent = set[str]()
    return sent | ({options.system_column} if options.system_column is not None else set())
