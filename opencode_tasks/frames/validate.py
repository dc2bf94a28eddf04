"""Validation of INPUT: all faults are found before a prompt is sent.

A fault is one line of text for the user.
"""

# pandas has no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd

from opencode_tasks.domain.columns import OUTPUT, Column
from opencode_tasks.domain.template import render, template_columns
from opencode_tasks.errors import InputError
from opencode_tasks.frames.arrow_frame import column_cells, held_without_text
from opencode_tasks.frames.cells import cell_text, is_nested

MAX_PROMPT_BYTES = 10_000_000
MAX_LISTED_ROWS = 5
MAX_LISTED_COLUMNS = 20
MAX_ID_LENGTH = 80
# An entry of an index of PostgreSQL has at most 2,704 bytes, and the id of the run is in it too.
MAX_ID_BYTES = 2_500
DEFAULT_PROMPT_COLUMN = "prompt"
CHUNK_ROWS = 10_000
# From this number of reserved columns on, INPUT is most likely the OUTPUT of a run.
OUTPUT_SIGNS = 4
OTHER_NAMES = "--column-prefix, for example --column-prefix new_"
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# Between braces these are signs of JSON, because column names seldom have them.
JSON_SIGNS = frozenset('":\n[')


class PromptRow(NamedTuple):
    """A row of the input. ``prompt`` is rendered; it is "" if the row has a fault.

    ``labels`` has no key for a label column that is null in this row. ``system`` is the row's own system
    text, None without one. ``workspace`` and ``ref`` are the cells that name its files; None without columns
    for them. ``files`` are the cells that name the attached files, one for each column; None for an empty
    cell.
    """

    position: int
    row_id: str
    prompt: str
    labels: dict[str, str]
    system: str | None = None
    workspace: str | None = None
    ref: str | None = None
    files: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRows:
    """The rows of an input in its order.

    A row is created when it is iterated over, so that a million rows are not Python objects at the same
    time. Another iteration creates them again. ``new_ids`` are ids of rows that have none of their own, by
    position.
    """

    frame: pd.DataFrame
    prompt_columns: tuple[str, ...] = ()
    template: str | None = None
    id_column: str | None = None
    labels: Sequence[str] = ()
    system_column: str | None = None
    workspace_column: str | None = None
    ref_column: str | None = None
    file_columns: Sequence[str] = ()
    faulty: Collection[int] = ()
    new_ids: Mapping[int, str] = field(default_factory=dict[int, str])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.frame)

    def __iter__(self) -> Iterator[PromptRow]:
        """Yield all rows, faulty ones included."""
        for start, chunk in _chunks(self.frame):
            ids = None if self.id_column is None else row_ids_in(chunk, self.id_column)
            labels = _labels(chunk, self.labels)
            prompts = _prompts(chunk, self.prompt_columns, self.template)
            systems = _optional_texts(chunk, self.system_column)
            workspaces = _optional_texts(chunk, self.workspace_column)
            refs = _optional_texts(chunk, self.ref_column)
            files = [_optional_texts(chunk, column) for column in self.file_columns]
            for offset, (_, prompt) in enumerate(prompts):
                position = start + offset
                row_id = str(position) if ids is None else self.new_ids.get(position, ids[offset])
                is_faulty = position in self.faulty
                yield PromptRow(
                    position,
                    row_id,
                    "" if is_faulty else prompt or "",
                    labels[offset],
                    None if is_faulty else systems[offset],
                    workspaces[offset],
                    refs[offset],
                    () if is_faulty else tuple(cells[offset] for cells in files),
                )

    def ids(self, positions: Iterable[int]) -> dict[int, str]:
        """Return the ids of these rows by position."""
        if self.id_column is None:
            return {position: str(position) for position in positions}
        listed = list(positions)
        found = _ids_at(self.frame, self.id_column, listed)
        return found | {position: self.new_ids[position] for position in listed if position in self.new_ids}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A validated input.

    ``faults`` concern the whole input: its columns and ids. ``row_faults`` concern single rows, by
    position. ``rows`` has all rows in the order of the input, faulty ones included; it is empty if there
    are ``faults``.
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
    system_column: str | None = None,
    workspace_column: str | None = None,
    ref_column: str | None = None,
    file_columns: Sequence[str] = (),
    added: Sequence[Column] = OUTPUT,
    unreadable: Mapping[int, str] | None = None,
) -> Checked:
    """Find all faults of the frame, and the ids, prompts and labels of its rows.

    ``unreadable`` are the faults of rows that could not be read, by position. With a ``template``,
    ``prompt_column`` is not used. Without an id column, the id of a row is its position. ``added`` are the
    columns that OUTPUT adds, whose names no column may have. A frame without rows and columns is valid. A
    fault is never an exception.
    """
    names = [str(name) for name in frame.columns]
    if has_no_content(frame):
        return Checked()
    try:
        prompt_columns = (prompt_column,) if template is None else template_columns(template)
    except InputError as error:
        return Checked(faults=[*error.faults, *_column_faults(names, id_column, added)])
    option = "--prompt-column" if template is None else "--template"
    differing = (*prompt_columns, *file_columns, system_column, workspace_column, ref_column)
    required = [(option, name) for name in prompt_columns]
    required += [("--id-column", id_column)] if id_column is not None else []
    required += [("--label", name) for name in labels]
    required += [("--file", name) for name in file_columns]
    optional = {
        "--system-column": system_column,
        "--workspace": workspace_column,
        "--workspace-ref": ref_column,
    }
    required += [(option, name) for option, name in optional.items() if name is not None]
    faults = [missing_column(name, option, names) for option, name in required if name not in names]
    if all(name is None for name in differing):
        reason = "names no {column}, so the prompts of all rows would be equal"
        faults.append(f"--template {reason}; name one of {_listed(names)} (a file: @FILE)")
    faults += _column_faults(names, id_column, added)
    faults += [
        f"INPUT column {name!r} ({option}) holds {kind}, which have no text; use another column"
        for option, name in dict.fromkeys(required)
        if names.count(name) == 1 and (kind := held_without_text(frame.iloc[:, names.index(name)]))
    ]
    unread, new_ids = dict(unreadable or {}), dict[int, str]()
    if id_column is not None and names.count(id_column) == 1:
        new_ids = _ids_of_unread(frame, id_column, unread)
        faults += _id_faults(frame, id_column, new_ids)
    if any(names.count(name) != 1 for name in prompt_columns):
        return Checked(faults=faults)
    row_faults = _prompt_faults(frame, prompt_columns, template)
    if system_column is not None and names.count(system_column) == 1:
        row_faults = _system_faults(frame, system_column) | row_faults
    row_faults |= unread
    if faults:
        return Checked(faults=faults, row_faults=row_faults)
    rows = PromptRows(
        frame=frame,
        prompt_columns=prompt_columns,
        template=template,
        id_column=id_column,
        labels=labels,
        system_column=system_column,
        workspace_column=workspace_column,
        ref_column=ref_column,
        file_columns=file_columns,
        faulty=row_faults.keys(),
        new_ids=new_ids,
    )
    return Checked(rows=rows, row_faults=row_faults)


def has_no_content(frame: pd.DataFrame) -> bool:
    """Return whether a table has neither rows nor columns, such as that of an empty JSON Lines file."""
    return not len(frame) and not len(frame.columns)


def row_ids_in(frame: pd.DataFrame, id_column: str) -> list[str]:
    """Return the ids of the rows as text, as the ledger stores them; "" for null."""
    return [cell_text(value) or "" for value in _cells(frame, id_column)]


def _ids_at(frame: pd.DataFrame, id_column: str, positions: Sequence[int]) -> dict[int, str]:
    """Return the ids of the rows at these positions."""
    # Taking rows copies whole columns, so the others stay out, and nothing is taken for nothing.
    if not positions:
        return {}
    at = [str(name) for name in frame.columns].index(id_column)
    taken = take_rows(cast("pd.DataFrame", frame.iloc[:, [at]]), positions)
    return dict(zip(positions, row_ids_in(taken, id_column), strict=True))


def take_rows(frame: pd.DataFrame, positions: Sequence[int]) -> pd.DataFrame:
    """Return the rows at these positions with a plain range index."""
    return frame.iloc[list(positions)].reset_index(drop=True)


def fault_lines(checked: Checked) -> list[str]:
    """Return the faults of the input, then one line for each kind of row fault with the rows that have it."""
    by_fault: dict[str, list[int]] = {}
    for position, fault in sorted(checked.row_faults.items()):
        by_fault.setdefault(fault, []).append(position)
    ids = checked.rows.ids(checked.row_faults) if len(checked.rows) else {}
    return [
        *checked.faults,
        *(f"INPUT: {fault}: {_list_rows(positions, ids)}" for fault, positions in by_fault.items()),
    ]


def _column_faults(names: list[str], id_column: str | None, added: Sequence[Column]) -> list[str]:
    faults = [
        f"INPUT has {count} columns named {name!r}; rename all but one"
        for name, count in Counter(names).items()
        if count > 1
    ]
    faults += [
        f"OUTPUT would have two columns named {name!r}; rename that field of the schema"
        for name, count in Counter(column.name for column in added).items()
        if count > 1
    ]
    fields = {column.name for column in added if column.field is not None and column.model is None}
    own = {column.name for column in added} - fields
    reserved = [name for name in dict.fromkeys(names) if name in own]
    if len(reserved) >= OUTPUT_SIGNS:
        listed = f"{', '.join(reserved[:2])} and {len(reserved) - 2} more"
        faults.append(
            f"INPUT has columns that OUTPUT adds: {listed}. It is probably the OUTPUT of a run: use the "
            f"INPUT of that run, remove these columns, or name the new columns with {OTHER_NAMES}"
        )
    else:
        faults += [
            f"INPUT column {name!r} has the name of a column that OUTPUT adds; rename it, or name the new "
            f"columns with {OTHER_NAMES}"
            for name in reserved
        ]
    if "row_id" in names and id_column != "row_id":
        faults.append("INPUT column 'row_id' has a reserved name; use --id-column row_id or rename it")
    faults += [
        f"INPUT column {name!r} has the name of a field of the schema; rename one of them, or name the new "
        f"columns with {OTHER_NAMES}"
        for name in dict.fromkeys(names)
        if name in fields
    ]
    return faults


def missing_column(name: str, option: str, names: list[str]) -> str:
    """Return the fault of a column that an option names and INPUT does not have."""
    if option == "--template" and JSON_SIGNS & set(name):
        advice = "double the braces of JSON and other text: {{ and }}"
        return f"--template: there is no column {name!r}; {advice}"
    similar = get_close_matches(name.strip().lower(), [other.lower() for other in names], n=1)
    suggestion = next((other for other in names if similar and other.lower() == similar[0]), None)
    if (separator := _wrong_separator(names)) is not None:
        hint = f". The cells are separated by {separator}: name the separator with --delimiter."
    elif suggestion is not None:
        hint = f"; did you mean {suggestion!r}?"
    elif (option, name) == ("--prompt-column", DEFAULT_PROMPT_COLUMN):
        hint = '; write the prompts with --template "… {COLUMN} …", or name the column that holds them.'
    else:
        hint = "."
    return f"INPUT has no column {name!r} ({option}){hint} It has {_listed(names)}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED_COLUMNS} more" if len(names) > MAX_LISTED_COLUMNS else ""
    return (", ".join(map(repr, names[:MAX_LISTED_COLUMNS])) or "no columns") + more


def _wrong_separator(names: list[str]) -> str | None:
    """Return the separator of a CSV file that was read as a table of one column; None if there is none."""
    if len(names) != 1:
        return None
    return next((name for sign, name in SEPARATORS.items() if sign in names[0]), None)


def _ids_of_unread(frame: pd.DataFrame, id_column: str, unread: Mapping[int, str]) -> dict[int, str]:
    """Return other ids, by position, for rows that could not be read and have none or that of another row."""
    if not unread:
        return {}
    row_ids = row_ids_in(frame, id_column)
    counts = Counter(row_ids)
    return {at: f"row-{at}" for at in unread if not row_ids[at].strip() or counts[row_ids[at]] > 1}


def _id_faults(frame: pd.DataFrame, id_column: str, new_ids: Mapping[int, str]) -> Iterator[str]:
    column = f"INPUT column {id_column!r} (--id-column)"
    found: dict[str, list[int]] = {"empty": [], "invalid": [], "long": []}
    hashes = np.zeros(len(frame), np.int64)
    for start, chunk in _chunks(frame):
        for position, cell in enumerate(_cells(chunk, id_column), start=start):
            row_id = new_ids.get(position, cell_text(cell) or "")
            hashes[position] = hash(row_id)
            if not row_id.strip():
                found["empty"].append(position)
            if is_nested(cell) or _character_fault(row_id):
                found["invalid"].append(position)
            if len(row_id.encode("utf-8", "replace")) > MAX_ID_BYTES:
                found["long"].append(position)
    faults = {
        "empty": "the id is empty",
        "invalid": "the id is not a valid text or number",
        "long": f"the id is longer than {MAX_ID_BYTES:,} bytes",
    }
    for name, positions in found.items():
        if positions:
            yield f"{column}: {faults[name]}: {_list_rows(positions, {})}"
    # Equal ids have equal hashes: only these few are compared as texts.
    ordered = np.sort(hashes)
    repeated_hashes = ordered[1:][ordered[1:] == ordered[:-1]]
    alike = np.flatnonzero(np.isin(hashes, repeated_hashes)).tolist() if len(repeated_hashes) else []
    ids = _ids_at(frame, id_column, alike)
    ids |= {position: new_ids[position] for position in alike if position in new_ids}
    times = Counter(row_id for row_id in ids.values() if row_id.strip())
    if repeated := [position for position, row_id in ids.items() if times[row_id] > 1]:
        yield f"{column}: the id is not unique: {_list_rows(repeated, ids)}"


def _list_rows(positions: list[int], ids: Mapping[int, str]) -> str:
    """Return the names of the first rows, and the number of the others."""
    listed = [row_name(position, ids.get(position)) for position in positions[:MAX_LISTED_ROWS]]
    more = len(positions) - len(listed)
    return ", ".join(listed) + (f" and {more} more" if more else "")


def row_name(position: int, row_id: str | None = None) -> str:
    """Return a row of a table as messages name it: by its number and, if it is given, by its id.

    The number is counted from 1, without the header. "row" alone is that of a worksheet or the id of a row.
    """
    name = f"data row {position + 1}"
    return name if row_id is None else f"{name} (id {row_id[:MAX_ID_LENGTH]!r})"


def _chunks(frame: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """Yield the frame in chunks, each with the position of its first row."""
    for start in range(0, len(frame), CHUNK_ROWS):
        yield start, cast("pd.DataFrame", frame.iloc[start : start + CHUNK_ROWS])


def _prompts(
    frame: pd.DataFrame, columns: tuple[str, ...], template: str | None
) -> Iterator[tuple[dict[str, str | None], str | None]]:
    """Yield the texts that each prompt is made of, and the prompt, valid or not; None for null."""
    cells = [[*map(cell_text, _cells(frame, column))] for column in columns]
    for at in range(len(frame)):
        row = {column: texts[at] for column, texts in zip(columns, cells, strict=True)}
        yield row, row[columns[0]] if template is None else render(template, row)


def _prompt_faults(frame: pd.DataFrame, columns: tuple[str, ...], template: str | None) -> dict[int, str]:
    return {
        start + offset: fault
        for start, chunk in _chunks(frame)
        for offset, (row, prompt) in enumerate(_prompts(chunk, columns, template))
        if (fault := _prompt_fault(row, prompt, has_template=template is not None)) is not None
    }


def _system_faults(frame: pd.DataFrame, column: str) -> dict[int, str]:
    return {
        position: fault
        for position, text in enumerate(_optional_texts(frame, column))
        if text is not None and (fault := _text_fault(text, "system text")) is not None
    }


def _optional_texts(frame: pd.DataFrame, column: str | None) -> list[str | None]:
    """Return the text of each row in a column; None for a null or empty one, and without a column."""
    if column is None:
        return [None] * len(frame)
    return [cell_text(value) or None for value in _cells(frame, column)]


def _prompt_fault(row: Mapping[str, str | None], prompt: str | None, *, has_template: bool) -> str | None:
    nulls = [column for column, value in row.items() if value is None]
    if nulls or prompt is None:
        return f"the column {nulls[0]!r} of the template is null" if has_template else "the prompt is null"
    if not prompt.strip():
        return "the prompt is empty"
    return _text_fault(prompt, "prompt")


def _text_fault(text: str, name: str) -> str | None:
    fault = _character_fault(text)
    if fault is None and len(text.encode()) > MAX_PROMPT_BYTES:
        return f"the {name} is longer than {MAX_PROMPT_BYTES // 1_000_000} MB"
    return None if fault is None else f"the {name} contains {fault}"


def _character_fault(text: str) -> str | None:
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "a lone surrogate (half of a character)"
    return None


def _labels(frame: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, str]]:
    texts = {column: list(map(cell_text, _cells(frame, column))) for column in columns}
    return [
        {
            column: _label_text(text)
            for column, values in texts.items()
            if (text := values[position]) is not None
        }
        for position in range(len(frame))
    ]


def _label_text(text: str) -> str:
    # A database rejects NUL and lone surrogates, and a label is not a reason to reject a row.
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _cells(frame: pd.DataFrame, column: str) -> list[Any]:
    position = [str(name) for name in frame.columns].index(column)
    return column_cells(frame.iloc[:, position])
