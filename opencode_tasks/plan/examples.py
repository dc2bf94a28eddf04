"""Examples for the model, from a table with the columns of INPUT and the answer."""

# pandas has no complete type information.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pandas as pd

from opencode_tasks.domain.answer_schema import InvalidAnswer, ValidAnswer
from opencode_tasks.domain.answer_shape import Shape, Types, shape_of
from opencode_tasks.errors import InputError
from opencode_tasks.frames.cells import is_null, json_text, json_value
from opencode_tasks.frames.columns import RESPONSE
from opencode_tasks.frames.io import read_input
from opencode_tasks.frames.validate import check_frame, fault_lines, row_name
from opencode_tasks.plan.options import Options
from opencode_tasks.plan.reviewed_examples import is_reviewed
from opencode_tasks.plan.system_text import Example


def read_examples(options: Options, input_columns: Collection[str] | None) -> list[Example]:
    """The examples in the file of ``--examples``; [] without a file.

    A prompt is made from the columns as that of a row is. The answer is in the column ``response`` (with the
    ``--column-prefix`` before it); else, with a schema of objects, in a column for each field; else in the
    only column that INPUT does not have. It is shown as the model must give it: a label as ``--choices`` has
    it, an object without words around it. ``input_columns`` None is unknown. Raises InputError with every
    fault.
    """
    if options.examples is None or is_reviewed(options.examples):
        return []
    name = f"--examples {options.examples}"
    try:
        frame = read_input(options.examples)
    except InputError as error:
        raise InputError(tuple(_renamed(fault, name) for fault in error.faults)) from None
    checked = check_frame(frame, prompt_column=options.prompt_column, template=options.template, added=())
    faults = [_renamed(fault, name) for fault in fault_lines(checked)]
    if faults or not len(frame):
        raise InputError(tuple(faults) or (f"{name}: there is no example in it",))
    answers = _answers(frame, options, input_columns, name)
    examples: list[Example] = []
    for row, answer in zip(checked.rows, answers, strict=True):
        if answer is None or not answer.strip():
            faults.append(f"{name}: {row_name(row.position)} has no answer")
            continue
        parsed = options.answer_format.parse(answer) if options.answer_format else ValidAnswer(value=answer)
        if isinstance(parsed, InvalidAnswer):
            where = row_name(row.position)
            faults.append(f"{name}: the answer of {where} does not fit: {parsed.problems[0]}")
        else:
            examples.append(Example(row.prompt, _as_requested(answer, parsed.value)))
    if faults:
        raise InputError(tuple(faults))
    return examples


def _answers(
    frame: pd.DataFrame, options: Options, input_columns: Collection[str] | None, name: str
) -> Iterator[str | None]:
    names = [str(column) for column in frame.columns]
    prefix = options.column_prefix or ""
    shape = None if options.schema is None else shape_of(options.schema)
    cells = {column: frame.iloc[:, at].tolist() for at, column in enumerate(names)}
    if prefix + RESPONSE.name in names:
        return map(_text, cells[prefix + RESPONSE.name])
    if shape is not None and any(prefix + field in names for field in shape.fields):
        return _objects({field: cells.get(prefix + field) for field in shape.fields}, shape, len(frame))
    others = [column for column in names if input_columns is not None and column not in input_columns]
    if len(others) != 1:
        fault = f"{name}: no column {prefix + RESPONSE.name!r} with the answers; it has {', '.join(names)}"
        raise InputError((fault,))
    return map(_text, cells[others[0]])


def _text(cell: Any) -> str | None:
    if is_null(cell):
        return None
    return cell if isinstance(cell, str) else json_text(json_value(cell))


def _objects(columns: Mapping[str, list[Any] | None], shape: Shape, count: int) -> Iterator[str]:
    """The answers as JSON objects, from a column for each field; a null that no field allows is left out."""
    for position in range(count):
        values = {
            field: _field(cells[position], shape.fields[field])
            for field, cells in columns.items()
            if cells is not None
        }
        kept = {
            field: value
            for field, value in values.items()
            if value is not None or "null" in (shape.fields[field] or ())
        }
        yield json_text(kept)


def _field(cell: Any, types: Types | None) -> Any:
    """The value of a cell. A file of texts, such as csv, has numbers and lists as their JSON."""
    value = json_value(cell)
    if not isinstance(value, str) or types is None or "string" in types:
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError:
        return value


def _as_requested(answer: str, value: Any) -> str:
    """An answer as the model must give it: a text or a label alone, and JSON with nothing around it."""
    if isinstance(value, str):
        return value
    try:
        return answer if json.loads(answer) == value else json_text(value)
    except ValueError:
        return json_text(value)


def _renamed(fault: str, name: str) -> str:
    """A fault of an input as one of the examples."""
    return f"{name}: {fault.removeprefix('INPUT ').removeprefix('INPUT: ')}"
