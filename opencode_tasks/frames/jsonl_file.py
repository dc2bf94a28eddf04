"""JSON Lines files, with one JSON object per line, and JSON files with an array of objects."""

# pandas has no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, cast

import pandas as pd

from opencode_tasks.domain.json_in_text import MAX_DEPTH
from opencode_tasks.domain.json_values import is_deeper
from opencode_tasks.errors import InputError
from opencode_tasks.frames.arrow_frame import ColumnBuilder, batches, column_cells
from opencode_tasks.frames.cells import json_text, json_value
from opencode_tasks.frames.content import MAX_LINE_CHARS, InputFile, one_line

MAX_SHOWN_DIGITS = 40
BLANKS = " \t\r\n"
# Names under which interfaces, exports and pandas (orient="table") return the rows of a table.
ENVELOPES = ("data", "rows", "records", "items", "results", "value")

BY_PANDAS = 'pandas writes an array with to_json(orient="records")'


def read_jsonl(file: InputFile) -> pd.DataFrame:
    """Read a JSON Lines file. Integers are exact, and nested values are kept.

    A cell is null if the value is null or if the line does not have the key. A bad row is a line that is not
    a JSON object, that has a key twice or a number beyond the range of floats, or that has more than 64
    million characters. A file without lines, which ``write_jsonl`` makes of a table without rows, has no
    columns.
    """
    with file.open_text(may_be_empty=True) as text:
        return _frame(islice(_rows(file, text), file.limit))


def read_json(file: InputFile) -> pd.DataFrame:
    """Read a JSON file with an array of objects, or a JSON Lines file with the suffix of such a file.

    Raises InputError if it is neither, or if its only object is a whole table: rows in an envelope, or
    columns as ``DataFrame.to_json`` writes them. An element that is not an object is a bad row.
    """
    with file.open_text() as text:
        lines = _through_first(text)
        head = lines[-1].lstrip() if lines else ""
        if head.startswith("["):
            return _frame(islice(_elements(file, head + text.read()), file.limit))
        more = _through_first(text)
        if not more or not _is_json(head):
            rest = "".join([*more, text.read()])
            more = [*io.StringIO(rest, newline="\n")]
            _check_one_value(file, head, rest)
        return _frame(islice(_rows(file, chain(lines, more, text)), file.limit))


def write_jsonl(frames: Iterable[pd.DataFrame], file: Any) -> None:
    """Write frames as one JSON Lines file in UTF-8. Nested values are kept, and null is null."""
    for frame in frames:
        file.write("".join(f"{line}\n" for line in _lines(frame)).encode("utf-8", "backslashreplace"))


def write_json(frames: Iterable[pd.DataFrame], file: Any) -> None:
    """Write frames as one JSON array in UTF-8, with an object per line."""
    before = "[\n"
    for line in chain.from_iterable(map(_lines, frames)):
        file.write(f"{before}{line}".encode("utf-8", "backslashreplace"))
        before = ",\n"
    file.write(b"\n]\n" if before == ",\n" else b"[]\n")


def _frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    builder = ColumnBuilder()
    for batch in batches(rows):
        builder.add(batch)
    return builder.frame()


class _Parser:
    """Parser of JSON that finds what Python changes silently.

    Of a key that occurs twice, Python keeps the last value; a number beyond the range of floats is infinite.
    """

    def __init__(self) -> None:
        self._faults: list[str] = []
        self._large: str | None = None
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_float=self._float)

    def parse(self, text: str) -> tuple[Any, str | None]:
        """Return the value of a text and its fault. Raises ValueError or RecursionError if it is not JSON."""
        self._faults, self._large = [], None
        value = self._decoder.decode(text)
        return value, next(iter(self._faults), None)

    def parse_at(self, text: str, at: int) -> tuple[Any, int, str | None]:
        """Return the value at a position, its end and its fault; raises what ``parse`` raises."""
        self._faults, self._large = [], None
        value, end = self._decoder.raw_decode(text, at)
        return value, end, next(iter(self._faults), None)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs):
            names = [name for name, _ in pairs]
            repeated = next(name for name in names if names.count(name) > 1)
            self._faults.append(f"the key {repeated!r} occurs twice")
        if self._large is not None:
            name = next((name for name, value in pairs if _is_infinite(value)), None)
            if name is not None:
                self._faults.append(
                    f"the number {self._large} of the key {name!r} is beyond the range of floats"
                )
                self._large = None
        return row

    def _float(self, text: str) -> float:
        number = float(text)
        if math.isinf(number):
            self._large = text[:MAX_SHOWN_DIGITS]
        return number


def _is_infinite(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_infinite, cast("list[Any]", value)))
    return isinstance(value, float) and math.isinf(value)


def _is_json(text: str) -> bool:
    return _value_of(text) is not None


def _value_of(text: str) -> Any:
    """Return the value of a JSON text; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _through_first(lines: Iterable[str]) -> list[str]:
    """Take the blank lines and the first other one; [] if there is no other one."""
    taken: list[str] = []
    for line in lines:
        taken.append(line)
        if line.strip():
            return taken
    return []


def _check_one_value(file: InputFile, head: str, rest: str) -> None:
    """Raise InputError if a file is one JSON value that is not the only row of a JSON Lines file."""
    value = _value_of(head + rest)
    if (shape := _shape_of_table(value)) is not None:
        advice = "write an array of objects instead; if the object is one row, put it in brackets: [{…}]"
        raise InputError((f"INPUT {file.name}: the file is one object {shape}; {advice}",))
    if value is not None and rest.strip():
        needed = "an array of objects, or one object in each line, is needed"
        raise InputError((f"INPUT {file.name}: one JSON value in several lines; {needed}",))
    if isinstance(value, dict) and any(isinstance(cell, (dict, list)) for cell in _cells_of(value)):
        file.notes.append(f"INPUT {file.name}: the file is one object, which is read as one row")


def _shape_of_table(value: Any) -> str | None:
    """Return how the only object of a file holds a whole table; None if it is a row.

    An object of other lists or objects can be a row too.
    """
    if not isinstance(value, dict):
        return None
    table = cast("dict[str, Any]", value)
    cells = _cells_of(table)
    lengths = [len(cast("list[Any]", cell)) for cell in cells if isinstance(cell, list)]
    if {"columns", "data"} <= table.keys() <= {"columns", "index", "data"} and len(lengths) == len(cells):
        return f"with the columns and the rows of a table ({BY_PANDAS})"
    if (rows := next((name for name in ENVELOPES if _are_objects(table.get(name))), None)) is not None:
        return f"whose rows are in {rows!r}"
    if _are_objects(cells) and all(cell.keys() == cells[0].keys() for cell in cells):
        labels = (table.keys(), cells[0].keys())
        if cells[0] and (len(cells) > 1 or any(all(map(str.isdecimal, names)) for names in labels)):
            return f"with an object for each column or row of a table ({BY_PANDAS})"
    if len(lengths) == len(cells) > 1 and len(set(lengths)) == 1 and lengths[0] > 1:
        return "with a list for each column of a table"
    return None


def _cells_of(row: Any) -> list[Any]:
    return list(cast("dict[str, Any]", row).values())


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _rows(file: InputFile, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    position, parser = 0, _Parser()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row, fault = _object(line, parser)
        if fault is not None:
            file.bad_row(position, f"line {number}: {fault}")
        yield row
        position += 1


def _object(line: str, parser: _Parser) -> tuple[dict[str, Any], str | None]:
    """Return the object of a line and its fault."""
    if len(line) > MAX_LINE_CHARS:
        return {}, f"longer than {MAX_LINE_CHARS // 2**20} million characters"
    try:
        row, fault = parser.parse(line)
    except (ValueError, RecursionError) as error:
        return {}, f"not JSON: {one_line(error)}"
    fault = _object_fault(row, line.count("[") + line.count("{")) or fault
    return ({} if fault else row), fault


def _object_fault(row: Any, brackets: int) -> str | None:
    if not isinstance(row, dict):
        return "not a JSON object"
    # OUTPUT repeats the cell, and its writers recurse. Counting is fast and decides for most lines.
    if brackets > MAX_DEPTH and is_deeper(row, MAX_DEPTH):
        return f"nested more than {MAX_DEPTH} levels deep"
    return None


def _elements(file: InputFile, text: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of an array, so that all of them are not Python objects at the same time."""
    parser, at, position = _Parser(), 1, 0
    while True:
        at = _next_sign(text, at)
        if position == 0 and text[at : at + 1] == "]":
            break
        try:
            row, end, fault = parser.parse_at(text, at)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, at) + 1
            raise InputError((f"INPUT {file.name}, line {line}: not JSON: {one_line(error)}",)) from error
        fault = _object_fault(row, text.count("[", at, end) + text.count("{", at, end)) or fault
        if fault is not None:
            file.bad_row(position, f"element {position + 1} of the array: {fault}")
        yield {} if fault else cast("dict[str, Any]", row)
        position += 1
        at = _next_sign(text, end)
        if text[at : at + 1] != ",":
            break
        at += 1
    if text[at : at + 1] != "]" or text[at + 1 :].strip():
        line = text.count("\n", 0, at) + 1
        raise InputError((f"INPUT {file.name}, line {line}: not JSON: the array does not end correctly",))


def _next_sign(text: str, at: int) -> int:
    while text[at : at + 1] in BLANKS and at < len(text):
        at += 1
    return at


def _lines(frame: pd.DataFrame) -> Iterator[str]:
    names = [str(name) for name in frame.columns]
    columns = [map(json_value, column_cells(frame.iloc[:, at])) for at in range(len(names))]
    return (json_text(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))
