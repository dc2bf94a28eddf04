"""The form in which a person corrects an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.engine.quality import has_answer
from opencode_tasks.frames.answer_form import AnswerField, is_empty
from opencode_tasks.view.list_query import FIELD
from opencode_tasks.view.run_view import RunView

MAX_KEYS = 9
EMPTY = "the answer is empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """An input of the form: ``name`` is its parameter, ``value`` the text that it shows.

    Among choices, "" is null and None is no choice. ``has_keys`` says that the number keys choose among its
    choices.
    """

    name: str
    field: AnswerField
    value: str | None
    has_keys: bool


def inputs(row: Mapping[str, Any], run: RunView, given: Mapping[str, str]) -> list[Input]:
    """The inputs for a row, with its answer or with what a person entered."""
    with_keys = next((one for one in run.fields if one.choices), None)
    answer = answer_of(row, run)
    texts = run.form.texts(answer)

    def shown(one: AnswerField) -> str | None:
        has_value = one.name in mapping_in(answer) if run.form.is_object else _is_answered(row)
        return texts[one.name] or ("" if has_value or not one.choices else None)

    return [
        Input(
            name=FIELD + one.name,
            field=one,
            value=given.get(FIELD + one.name, shown(one)),
            has_keys=one is with_keys,
        )
        for one in run.fields
    ]


def entered_answer(
    row: Mapping[str, Any], run: RunView, given: Mapping[str, str]
) -> tuple[Any, tuple[str, ...]]:
    """The answer that a person entered, and a line for each input that cannot be read.

    A row without an answer needs one: what nobody entered is no answer.
    """
    texts = {one.name: given.get(FIELD + one.name) for one in run.fields}
    is_chosen = any(one.choices and texts[one.name] is not None for one in run.fields)
    if not _is_answered(row) and is_empty(texts) and not is_chosen:
        return None, (EMPTY,)
    return run.form.answer(texts, answer_of(row, run), keeps_spaces=True)


def _is_answered(row: Mapping[str, Any]) -> bool:
    return has_answer(row["status"], row["response"])


def answer_of(row: Mapping[str, Any], run: RunView) -> Any:
    """The whole answer of a row; None without one."""
    if not _is_answered(row):
        return None
    return row["structured"] if run.has_schema else row["response"]
