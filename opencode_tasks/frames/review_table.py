"""Review files for spreadsheets: a table in which a person edits the answers."""

# pandas has no complete type information.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from opencode_tasks.errors import InputError
from opencode_tasks.frames.answer_form import AnswerField
from opencode_tasks.frames.cells import cell_text
from opencode_tasks.frames.columns import RESPONSE
from opencode_tasks.frames.csv_text import is_formula, protected_text
from opencode_tasks.frames.review_task import Judgement, ReviewTask

OWN_COLUMNS = ("run_id", "row_id", "row_key", "prompt", "note", "random")
# Columns that the import ignores. One with the name of an answer's column has another name.
REMARKS = ("agreement", "gold", "reason")
ANSWER = "answer"


def answer_columns(fields: Sequence[AnswerField]) -> dict[str, str]:
    """The columns with the answers, by the names of the fields; ``answer`` for answers without fields."""
    if [field.name for field in fields] == [RESPONSE.name]:
        return {RESPONSE.name: ANSWER}
    taken = {*OWN_COLUMNS, *(field.name for field in fields)}
    columns: dict[str, str] = {}
    for field in fields:
        column = field.name
        while column in OWN_COLUMNS or (column != field.name and column in taken):
            column = f"{ANSWER}_{column}"
        columns[field.name] = column
    return columns


def review_frame(
    tasks: Sequence[ReviewTask], fields: Sequence[AnswerField], *, protects_cells: bool
) -> pd.DataFrame:
    """The table of the tasks. A column of remarks without any is left out.

    ``protects_cells`` puts an apostrophe before a cell that a spreadsheet would run as a formula.
    """

    def shown(text: str | None) -> str | None:
        return protected_text(text) if protects_cells and text is not None else text

    columns: dict[str, list[Any]] = {
        "run_id": [task.run_id for task in tasks],
        "row_id": [shown(task.row_id) for task in tasks],
        "row_key": [task.row_key for task in tasks],
        "prompt": [shown(task.prompt) for task in tasks],
    }
    for name, column in answer_columns(fields).items():
        columns[column] = [shown(task.texts.get(name)) for task in tasks]
    columns |= {"note": [None] * len(tasks), "random": [str(task.is_random).lower() for task in tasks]}
    remarks = [task.remarks for task in tasks]
    for name in REMARKS:
        found = [one.get(name) for one in remarks]
        if any(value is not None for value in found):
            column = name
            while column in columns:
                column = f"review_{column}"
            columns[column] = [shown(value) if isinstance(value, str) else value for value in found]
    return pd.DataFrame(columns, dtype=object)


def judgements_in(
    frame: pd.DataFrame, fields: Sequence[AnswerField], *, protects_cells: bool
) -> Iterator[Judgement]:
    """The judgements in a table that ``review_frame`` made and a person edited.

    Raises InputError if a column with answers is missing.
    """

    def read(text: str | None) -> str | None:
        return text[1:] if protects_cells and text and text[0] == "'" and is_formula(text) else text

    cells = {str(name): list(map(cell_text, frame.iloc[:, at])) for at, name in enumerate(frame.columns)}
    empty = [None] * len(frame)
    columns = answer_columns(fields)
    if missing := [column for column in columns.values() if column not in cells]:
        raise InputError(
            (f"no column {missing[0]!r} with answers; use a file of opencode-tasks review export",)
        )
    for at in range(len(frame)):
        own = {name: read(cells.get(name, empty)[at]) for name in OWN_COLUMNS}
        yield Judgement(
            row_id=own["row_id"] or "",
            run_id=own["run_id"] or None,
            row_key=own["row_key"] or None,
            texts={name: read(cells[column][at]) for name, column in columns.items()},
            note=own["note"] or None,
            is_random=None if not own["random"] else own["random"].strip().lower() in ("true", "1"),
        )
