"""The form in which a person corrects an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.ledger.column_types import storable
from opencode_tasks.view.list_query import FIELD
from opencode_tasks.view.row_cells import answer_text
from opencode_tasks.view.run_view import AnswerField, RunView

MAX_KEYS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """An input of the form: ``name`` is its parameter, ``value`` the text that it shows.

    ``has_keys`` says that the number keys choose among its choices.
    """

    name: str
    field: AnswerField
    value: str
    has_keys: bool


def inputs(row: Mapping[str, Any], run: RunView, given: Mapping[str, str]) -> list[Input]:
    """The inputs for a row, with its answer or with what a person entered."""
    with_keys = next((one for one in run.fields if one.choices), None)
    return [
        Input(
            name=FIELD + one.name,
            field=one,
            value=given.get(FIELD + one.name, answer_text(row, one)),
            has_keys=one is with_keys,
        )
        for one in run.fields
    ]


def entered_answer(
    row: Mapping[str, Any], run: RunView, given: Mapping[str, str]
) -> tuple[Any, tuple[str, ...]]:
    """The answer that a person entered, and a line for each input that cannot be read.

    An input that was not changed keeps its value, and so do fields that the schema does not name.
    """
    faults: list[str] = []
    values: dict[str, Any] = dict(mapping_in(row["structured"])) if run.is_object else {}
    for one in run.fields:
        text = given.get(FIELD + one.name, "")
        if _as_entered(text) == _as_entered(answer_text(row, one)) and (text or run.is_object):
            if not run.is_object:
                values[one.name] = row["response"] if row["structured"] is None else row["structured"]
            continue
        try:
            value = _value(one, text.replace("\r\n", "\n"))
        except ValueError:
            faults.append(f"{one.title}: {text[:50]!r} is not {_expected(one)}")
            continue
        if run.is_object and not text and one.kind != "text":
            values.pop(one.name, None)
        else:
            values[one.name] = value
    return (values if run.is_object else values.get(run.fields[0].name)), tuple(faults)


def _as_entered(text: str) -> str:
    """A text as a browser sends it back if a person does not change it; its lines end with a line feed."""
    return storable(text).replace("\r\n", "\n").replace("\r", "\n")


def _value(field: AnswerField, text: str) -> Any:
    match field.kind:
        case "choice" | "text":
            return text
        case "boolean" | "number" | "json":
            return _json_value(text) if text.strip() else None


def _json_value(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for others, also for numbers that JSON cannot write."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _expected(field: AnswerField) -> str:
    match field.kind:
        case "number":
            return "a number"
        case "boolean":
            return "true or false"
        case "choice" | "text" | "json":
            return 'a JSON value: a text has quotation marks, as in "text"'
