"""Every fault of an input, found before anything is bought."""

# pandas, pyarrow and fsspec come without types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple, cast

import pandas as pd

from opencode_tasks.domain.answer_schema import schema_columns
from opencode_tasks.domain.columns import RESERVED_COLUMNS
from opencode_tasks.domain.template import render, template_columns
from opencode_tasks.errors import InputError
from opencode_tasks.frames.cells import is_nested, is_null

PROMPT_LIMIT_BYTES = 10_000_000
NAMED_ROWS = 5
ROWS_AT_ONCE = 10_000
NAMED_COLUMNS = 20


class PromptRow(NamedTuple):
    """A row of the input; ``prompt`` is rendered, and "" where the row has a fault.

    ``labels`` lacks the columns that are null in this row.
    """

    position: int
    row_id: str
    prompt: str
    labels: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRows:
    """The rows of an input in its order, each made from the frame when it is come to.

    So a million rows are not held as Python objects; to go through them again makes them again.
    """

    frame: pd.DataFrame
    prompt_columns: tuple[str, ...] = ()
    template: str | None = None
    id_column: str | None = None
    labels: Sequence[str] = ()
    faulty: Collection[int] = ()

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.frame)

    def __iter__(self) -> Iterator[PromptRow]:
        """The rows, faulty ones too."""
        for start, some in _parts(self.frame):
            ids = None if self.id_column is None else row_ids_in(some, self.id_column)
            labels = _labels(some, self.labels)
            prompts = _prompts(some, self.prompt_columns, self.template)
            for place, (_, prompt) in enumerate(prompts):
                at = start + place
                row_id = str(at) if ids is None else ids[place]
                yield PromptRow(at, row_id, "" if at in self.faulty else prompt, labels[place])

    def ids(self, positions: Iterable[int]) -> dict[int, str]:
        """The ids of some rows, by position."""
        if self.id_column is None:
            return {position: str(position) for position in positions}
        some = list(positions)
        return dict(zip(some, row_ids_in(take_rows(self.frame, some), self.id_column), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """An input and what is wrong with it.

    ``rows`` has every row in input order, faulty ones too; none where ``faults`` (those of the
    whole input: columns, ids) has any. ``row_faults`` says by position what is wrong with one row.
    """

    rows: PromptRows = field(default_factory=lambda: PromptRows(frame=pd.DataFrame()))
    faults: list[str] = field(default_factory=list[str])
    row_faults: dict[int, str] = field(default_factory=dict[int, str])


def check_frame(
    frame: pd.DataFrame,
    *,
    prompt_column: str = "prompt",
    template: str | None = None,
    id_column: str | None = None,
    labels: Sequence[str] = (),
    schema: Mapping[str, Any] | None = None,
) -> Checked:
    """Look for every fault at once and take the rows' ids, prompts and labels.

    A ``template`` stands in for the prompt column. Without an id column a row's id is its
    position. The schema itself is ``check_schema``'s; here its fields are held against the
    columns. A frame without rows and columns is a run of no rows. Never raises for a fault.
    """
    names = [str(name) for name in frame.columns]
    if not names and not len(frame):
        return Checked()
    try:
        prompt_columns = (prompt_column,) if template is None else template_columns(template)
    except InputError as error:
        return Checked(faults=[*error.faults, *_column_faults(names, id_column, schema)])
    option = "--prompt-column" if template is None else "--template"
    wanted = [(option, name) for name in prompt_columns]
    wanted += [("--id-column", id_column)] if id_column is not None else []
    wanted += [("--label", name) for name in labels]
    faults = [_missing(name, option, names) for option, name in wanted if name not in names]
    faults += _column_faults(names, id_column, schema)
    if id_column is not None and names.count(id_column) == 1:
        faults += _id_faults(_cells(frame, id_column), row_ids_in(frame, id_column), id_column)
    if any(names.count(name) != 1 for name in prompt_columns):
        return Checked(faults=faults)
    row_faults = _prompt_faults(frame, prompt_columns, template)
    if faults:
        return Checked(faults=faults, row_faults=row_faults)
    rows = PromptRows(
        frame=frame,
        prompt_columns=prompt_columns,
        template=template,
        id_column=id_column,
        labels=labels,
        faulty=row_faults.keys(),
    )
    return Checked(rows=rows, row_faults=row_faults)


def row_ids_in(frame: pd.DataFrame, id_column: str) -> list[str]:
    """The rows' ids as the ledger has them: a column's values as text, "" where there is none."""
    return ["" if is_null(value) else str(value) for value in _cells(frame, id_column)]


def take_rows(frame: pd.DataFrame, positions: Sequence[int]) -> pd.DataFrame:
    """The rows at these positions, with a plain range index."""
    return frame.iloc[list(positions)].reset_index(drop=True)


def fault_lines(checked: Checked) -> list[str]:
    """All faults for people: those of the input, then one line for each thing wrong with rows."""
    by_fault: dict[str, list[int]] = {}
    for position, fault in sorted(checked.row_faults.items()):
        by_fault.setdefault(fault, []).append(position)
    ids = checked.rows.ids(checked.row_faults) if len(checked.rows) else {}
    return [
        *checked.faults,
        *(f"INPUT: {fault}: {_named(positions, ids)}" for fault, positions in by_fault.items()),
    ]


def _column_faults(names: list[str], id_column: str | None, schema: Mapping[str, Any] | None) -> list[str]:
    faults = [
        f"INPUT has {count} columns named {name!r}; rename all but one"
        for name, count in Counter(names).items()
        if count > 1
    ]
    fields = schema_columns(schema)
    for name in dict.fromkeys(names):
        if name == "row_id" and id_column != name:
            faults.append(
                "INPUT column 'row_id' is named like our name for a row; give --id-column row_id or rename it"
            )
        elif name in RESERVED_COLUMNS and name != "row_id":
            faults.append(f"INPUT column {name!r} is named like a column that OUTPUT adds; rename it")
        elif name in fields:
            faults.append(f"INPUT column {name!r} is named like a field of the schema; rename one of them")
    return faults


def _missing(name: str, option: str, names: list[str]) -> str:
    near = get_close_matches(name.strip().lower(), [other.lower() for other in names], n=1)
    meant = next((other for other in names if near and other.lower() == near[0]), None)
    hint = f"; did you mean {meant!r}?" if meant is not None else "."
    listed = ", ".join(repr(other) for other in names[:NAMED_COLUMNS])
    more = f" and {len(names) - NAMED_COLUMNS} more" if len(names) > NAMED_COLUMNS else ""
    return f"INPUT has no column {name!r} ({option}){hint} It has {listed}{more}"


def _id_faults(ids: list[Any], row_ids: list[str], id_column: str) -> Iterator[str]:
    where = f"INPUT column {id_column!r} (--id-column)"
    empty = [place for place, row_id in enumerate(row_ids) if not row_id.strip()]
    if empty:
        yield f"{where}: no id: {_named(empty, {})}"
    unfit = [place for place, value in enumerate(ids) if is_nested(value) or _character_fault(row_ids[place])]
    if unfit:
        yield f"{where}: not a text or a number that can be an id: {_named(unfit, {})}"
    counts = Counter(row_id for row_id in row_ids if row_id.strip())
    twice = [place for place, row_id in enumerate(row_ids) if counts[row_id] > 1]
    if twice:
        yield f"{where}: the same id more than once: {_named(twice, dict(enumerate(row_ids)))}"


def _named(positions: list[int], ids: Mapping[int, str]) -> str:
    """The first five rows by position, with their ids where those say more, then how many more."""
    shown = [
        f"row {place}" + (f" (id {ids[place][:80]!r})" if ids.get(place, str(place)) != str(place) else "")
        for place in positions[:NAMED_ROWS]
    ]
    more = len(positions) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _parts(frame: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """The frame some thousand rows at a time, each part with the position of its first row."""
    for start in range(0, len(frame), ROWS_AT_ONCE):
        yield start, cast("pd.DataFrame", frame.iloc[start : start + ROWS_AT_ONCE])


def _prompts(
    frame: pd.DataFrame, columns: tuple[str, ...], template: str | None
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Each row's prompt, whatever is wrong with it, after the cells that it is made of."""
    cells = [_cells(frame, column) for column in columns]
    for values in zip(*cells, strict=True):
        row = dict(zip(columns, values, strict=True))
        yield row, values[0] if template is None else render(template, _without_nulls(row))


def _prompt_faults(frame: pd.DataFrame, columns: tuple[str, ...], template: str | None) -> dict[int, str]:
    return {
        start + place: fault
        for start, some in _parts(frame)
        for place, (row, prompt) in enumerate(_prompts(some, columns, template))
        if (fault := _prompt_fault(row, prompt, templated=template is not None)) is not None
    }


def _prompt_fault(row: Mapping[str, Any], prompt: Any, *, templated: bool) -> str | None:
    nulls = [column for column, value in row.items() if is_null(value)]
    if nulls:
        return f"the column {nulls[0]!r} of the template is null" if templated else "the prompt is null"
    if not isinstance(prompt, str):
        return "the prompt is not text"
    if not prompt.strip():
        return "the prompt is empty"
    fault = _character_fault(prompt)
    if fault is None and len(prompt.encode()) > PROMPT_LIMIT_BYTES:
        return f"the prompt is above {PROMPT_LIMIT_BYTES // 1_000_000} MB"
    return None if fault is None else f"the prompt holds {fault}"


def _character_fault(text: str) -> str | None:
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half a character (a lone surrogate)"
    return None


def _without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    return {column: None if is_null(value) else value for column, value in row.items()}


def _labels(frame: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, str]]:
    cells = {column: _cells(frame, column) for column in columns}
    return [
        {
            column: _label_text(values[position])
            for column, values in cells.items()
            if not is_null(values[position])
        }
        for position in range(len(frame))
    ]


def _label_text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str) if is_nested(value) else str(value)
    # A database takes neither NUL nor half characters, and a label is not worth a row.
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _cells(frame: pd.DataFrame, column: str) -> list[Any]:
    place = [str(name) for name in frame.columns].index(column)
    return frame.iloc[:, place].tolist()
