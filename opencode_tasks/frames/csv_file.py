"""CSV files. Cells are text in both directions, so ``007``, ``NA`` and ``1e5`` stay as they are."""

# pandas has no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

import pandas as pd

from opencode_tasks.errors import InputError
from opencode_tasks.frames.cells import json_text, json_value
from opencode_tasks.frames.content import decode_text
from opencode_tasks.frames.csv_text import csv_line

CELL_LIMIT_BYTES = 64 * 1024 * 1024


def read_csv(name: str, content: bytes, limit: int | None) -> pd.DataFrame:
    """Parse a CSV file; ``name`` is used in error messages, ``limit`` is the maximum number of rows.

    Columns are Python strings, "" for an empty cell. A file with only a header is a frame without rows.
    Raises InputError if the file is not CSV, or if a line has more or fewer cells than the header.
    """
    # Not pandas: it pads short lines, and its message about long lines is less clear.
    text = decode_text(name, content)
    previous_limit = csv.field_size_limit(CELL_LIMIT_BYTES)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            header = next((cells for cells in reader if cells), None)
            rows = [] if header is None else list(islice(_rows(name, reader, len(header)), limit))
        except csv.Error as error:
            raise InputError((f"INPUT {name}, line {reader.line_num}: not CSV: {error}",)) from error
    finally:
        csv.field_size_limit(previous_limit)
    if header is None:
        raise InputError((f"INPUT {name}: the file is empty",))
    return pd.DataFrame(rows, columns=pd.Index(header, dtype=object), dtype=object)


def _rows(name: str, reader: Any, width: int) -> Iterator[list[str]]:
    first_line = reader.line_num + 1
    for cells in cast("Iterator[list[str]]", reader):
        # A blank line is not a row. In a table of one column, an empty cell is written as "".
        if cells:
            if len(cells) != width:
                raise InputError(
                    (f"INPUT {name}, line {first_line}: {len(cells)} cells, but the header has {width}",)
                )
            yield cells
        first_line = reader.line_num + 1


def write_csv(frames: Iterable[pd.DataFrame], file: Any) -> None:
    """Write frames as one CSV file in UTF-8.

    Null is an empty cell, times are ISO 8601 with Z, and nested values are JSON. See ``csv_text`` for
    cells that a spreadsheet would run.
    """
    for number, frame in enumerate(frames):
        if number == 0:
            _write(file, csv_line(map(str, frame.columns)))
        columns = [map(_cell_text, frame.iloc[:, at].tolist()) for at in range(len(frame.columns))]
        _write(file, "".join(map(csv_line, zip(*columns, strict=True))))


def _write(file: Any, text: str) -> None:
    file.write(text.encode("utf-8", "backslashreplace"))


def _cell_text(value: Any) -> str | None:
    plain = json_value(value)
    if plain is None or isinstance(plain, str):
        return plain
    return json_text(plain) if isinstance(plain, (dict, list)) else str(plain)
