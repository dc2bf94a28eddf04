"""CSV files. Cells are text in both directions, so ``007``, ``NA`` and ``1e5`` stay as they are."""

# pandas and pyarrow have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import csv
import io
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from opencode_tasks.errors import InputError
from opencode_tasks.frames.arrow_frame import batches, column_cells, frame_of
from opencode_tasks.frames.cells import cell_text
from opencode_tasks.frames.content import MAX_LINE_CHARS, InputFile
from opencode_tasks.frames.csv_text import csv_line, protected_cell

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# The reader's own limit of a cell; a row has a lower one.
MAX_CELL_CHARS = 2**31 - 1
SAMPLE_ROWS = 50
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
MERGED = (
    "with line breaks in a cell, and each line looks like a row: a quotation mark may not be closed. If the "
    "file has no quoting, which is common in exports of databases, convert it to JSON Lines or Parquet"
)
# A spreadsheet writes such a line to say how the cells are separated.
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)


def read_csv(file: InputFile) -> pd.DataFrame:
    """Read a CSV file; cells are text, "" for an empty one. A file with only a header has no rows.

    The delimiter is detected if it is not given. A column without a name is ``column_N``, N counted from 1.
    Raises InputError if the file is not CSV. A line with more or fewer cells than the header, or with more
    than 64 million characters, is a bad row.
    """
    # Not pandas or Arrow: they guess types, and their messages about long lines are less clear.
    with file.open_text(newline="") as text, _large_cells():
        delimiter, lines = _delimiter_of(file, text)
        reader = csv.reader(lines, strict=True, delimiter=delimiter)
        records = _records(file, reader)
        header = next(records, None)
        if header is None:
            raise InputError((f"INPUT {file.name}: the file is empty",))
        names = _column_names(file, header.cells)
        merged: list[int] = []
        records = _watched(records, len(names), delimiter, merged)
        parts = [
            pa.record_batch(
                [pa.array(cells, pa.large_string()) for cells in zip(*rows, strict=True)], names=names
            )
            for rows in batches(islice(_rows(file, records, len(names)), file.limit))
        ]
    if merged:
        rows = "one row" if len(merged) == 1 else f"the first of {len(merged):,} rows"
        file.notes.append(f"INPUT {file.name}, line {merged[0]}: {rows} {MERGED}")
    schema = pa.schema([(name, pa.large_string()) for name in names])
    return frame_of(pa.Table.from_batches(parts, schema=schema))


def write_csv(frames: Iterable[pd.DataFrame], file: Any, delimiter: str = ",") -> None:
    """Write frames as one CSV file in UTF-8. Null is an empty cell; see ``cell_text`` for other values."""
    for number, frame in enumerate(frames):
        if number == 0:
            _write(file, csv_line(map(str, frame.columns), delimiter))
        columns = [map(cell_text, column_cells(frame.iloc[:, at])) for at in range(len(frame.columns))]
        _write(file, "".join(csv_line(cells, delimiter) for cells in zip(*columns, strict=True)))


def protected(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame of text whose cells and header a spreadsheet does not run as formulas."""
    columns = [
        pd.Series(
            [None if (text := cell_text(cell)) is None else protected_cell(text) for cell in cells],
            dtype=object,
        )
        for cells in (column_cells(frame.iloc[:, at]) for at in range(len(frame.columns)))
    ]
    shown = pd.DataFrame(dict(enumerate(columns)), index=pd.RangeIndex(len(frame)))
    shown.columns = pd.Index([protected_cell(str(name)) for name in frame.columns], dtype=object)
    return shown


@contextmanager
def _large_cells() -> Generator[None]:
    previous = csv.field_size_limit(MAX_CELL_CHARS)
    try:
        yield
    finally:
        csv.field_size_limit(previous)


def _delimiter_of(file: InputFile, text: io.TextIOWrapper) -> tuple[str, Iterable[str]]:
    """Return the delimiter, and the lines of the file after one that names it."""
    head = file.read_head(text)
    first = next(text, "")
    if found := _SEPARATOR_LINE.fullmatch(first):
        return file.delimiter or found[1], text
    delimiter = file.delimiter or detect_delimiter(head)
    if file.delimiter is None and delimiter != ",":
        file.notes.append(f"INPUT {file.name}: the cells are separated by {DELIMITERS[delimiter]}")
    return delimiter, chain([first], text)


def detect_delimiter(head: str) -> str:
    """Return the delimiter by which most rows at the beginning of a file have as many cells as the header.

    It is a comma unless the header has several cells by another one.
    """
    best, best_score = ",", (0.0, 0)
    for delimiter in DELIMITERS:
        rows = filter(None, csv.reader(io.StringIO(head, newline=""), delimiter=delimiter))
        widths = [len(cells) for cells in islice(rows, SAMPLE_ROWS)]
        if not widths or widths[0] == 1:
            continue
        score = (widths.count(widths[0]) / len(widths), widths[0])
        if score > best_score and score[0] > 1 / 2:
            best, best_score = delimiter, score
    return best


class _Record(NamedTuple):
    """A row of the file: the number of its first line, its number of lines, and its cells or its fault."""

    line: int
    lines: int
    cells: list[str] | str


def _records(file: InputFile, reader: Any) -> Iterator[_Record]:
    """Yield each record that is not a blank line.

    Raises InputError if a quotation mark is not closed: it is unknown where the next row begins.
    """
    while True:
        first_line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = f"not CSV: {error}"
            if reader.line_num != first_line or "unexpected end" in str(error):
                raise InputError((f"INPUT {file.name}, line {reader.line_num}: {fault}",)) from error
            yield _Record(first_line, 1, fault)
            continue
        # A blank line is not a row. In a table of one column, an empty cell is written as "".
        if cells:
            yield _Record(first_line, reader.line_num - first_line + 1, cells)


def _watched(records: Iterator[_Record], width: int, delimiter: str, merged: list[int]) -> Iterator[_Record]:
    """Yield the records, and add the line of each one to ``merged`` whose lines look like whole rows.

    That is a sign and no fault: the lines of a text can have as many delimiters by chance.
    """
    # Texts seldom have tabs. A comma in two lines of a text is no sign yet.
    needed = 1 if delimiter == "\t" else 2
    for record in records:
        if record.lines > 1 and width > 1 and (record.lines - 1) * (width - 1) >= needed:
            lines = _LINE_BREAK.split(delimiter.join(record.cells))
            if len(lines) > 1 and all(line.count(delimiter) == width - 1 for line in lines):
                merged.append(record.line)
        yield record


def _rows(file: InputFile, records: Iterator[_Record], width: int) -> Iterator[list[str | None]]:
    for position, (line, _, cells) in enumerate(records):
        if isinstance(cells, str):
            file.bad_row(position, f"line {line}: {cells}")
            yield [None] * width
        elif sum(map(len, cells)) > MAX_LINE_CHARS:
            file.bad_row(position, f"line {line}: longer than {MAX_LINE_CHARS // 2**20} million characters")
            yield [None] * width
        elif len(cells) != width:
            file.bad_row(position, f"line {line}: {len(cells)} cells, but the header has {width}")
            yield [*cells[:width], *[None] * (width - len(cells))]
        else:
            yield [*cells]


def _column_names(file: InputFile, header: list[str] | str) -> list[str]:
    if isinstance(header, str):
        raise InputError((f"INPUT {file.name}, line 1: {header}",))
    names = [name or f"column_{number}" for number, name in enumerate(header, start=1)]
    if unnamed := [name for name, given in zip(names, header, strict=True) if not given]:
        file.notes.append(f"INPUT {file.name}: columns without a name are called {', '.join(unnamed)}")
    return names


def _write(file: Any, text: str) -> None:
    file.write(text.encode("utf-8", "backslashreplace"))
