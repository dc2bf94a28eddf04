"""The columns of a list, and its rows as texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from opencode_tasks.domain.columns import RESPONSE
from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.money import format_usd
from opencode_tasks.domain.text import shorten
from opencode_tasks.frames.answer_form import AnswerField, answer_text, value_text
from opencode_tasks.view.list_query import FIELD
from opencode_tasks.view.run_view import RunView

SHOWN_CHARS = 200
# How a cell of the column "gold" begins if the answer of the model differs from the gold value.
WRONG = "the model differs: "


@dataclass(frozen=True, slots=True, kw_only=True)
class ListColumn:
    """A column of a list. ``sort`` is its parameter in the address; None if it cannot be sorted."""

    name: str
    title: str
    kind: Literal["id", "text", "status", "number"] = "text"
    sort: str | None = None
    field: AnswerField | None = None


def list_columns(run: RunView) -> list[ListColumn]:
    """The columns of a run's list."""
    answers = [
        ListColumn(
            name=FIELD + one.name,
            title=one.title,
            kind="number" if one.kind == "number" else "text",
            sort=FIELD + one.name if run.is_object else "answer",
            field=one,
        )
        for one in run.fields
    ]
    return [
        ListColumn(name="row_id", title="row", kind="id", sort="row_id"),
        ListColumn(name="prompt", title="prompt", sort="prompt"),
        *answers,
        ListColumn(name="status", title="status", kind="status", sort="status"),
        ListColumn(name="error_type", title="error", sort="error_type"),
        *(
            [ListColumn(name="agreement", title="agreement", kind="number", sort="agreement")]
            if run.has_agreement
            else []
        ),
        *([ListColumn(name="gold", title="gold")] if run.has_gold else []),
        ListColumn(name="cost", title="cost", kind="number", sort="cost"),
        ListColumn(name="attempts", title="attempts", kind="number", sort="attempts"),
        ListColumn(name="answered_by", title="reviewed by"),
    ]


def cells(line: Mapping[str, Any], columns: list[ListColumn]) -> list[str]:
    """The texts of a row of ``ledger.row_list.lines``, one for each column."""
    return [_cell(line, column) for column in columns]


def _cell(line: Mapping[str, Any], column: ListColumn) -> str:
    if column.field is not None:
        text = short(field_text(line, column.field))
        return _rounded(text) if column.kind == "number" else text
    match column.name:
        case "gold":
            return _gold(line["gold"])
        case "cost":
            # An open row has no cost yet.
            return (
                ""
                if line["cost_pico"] is None and line["status"] == "open"
                else format_usd(line["cost_pico"])
            )
        case "agreement":
            return "" if line["agreement"] is None else f"{line['agreement']:.0%}"
        case name:
            value = line[name]
            return "" if value is None else short(str(value)) if column.kind != "id" else str(value)


def field_text(line: Mapping[str, Any], field: AnswerField) -> str:
    """The value of a field of a row's answer as text; "" without one."""
    structured = line["structured"]
    if field.name == RESPONSE.name:
        return (line["response"] or "") if structured is None else answer_text(structured)
    return value_text(mapping_in(structured).get(field.name)) or ""


def short(text: str) -> str:
    """The beginning of a text, in one line."""
    return shorten(" ".join(text[: 4 * SHOWN_CHARS].split()), SHOWN_CHARS)


def _rounded(number: str) -> str:
    """A decimal fraction with six significant digits; another number as it is."""
    return f"{float(number):.6g}" if "." in number else number


def _gold(values: list[dict[str, Any]]) -> str:
    if not values:
        return ""
    wrong = [one for one in values if one["is_correct"] is False]
    if wrong:
        return WRONG + short(", ".join(value_text(one["value"]) or "" for one in wrong))
    return "the model is right" if all(one["is_correct"] for one in values) else ""
