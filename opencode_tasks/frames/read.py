"""INPUT into a frame: csv, jsonl or parquet by suffix, from any fsspec URL.

Nothing is guessed: CSV is text (``007``, ``NA`` and ``1e5`` stay what they are), JSON values keep
their types, and Parquet brings its own.
"""

# pandas, pyarrow and fsspec come without types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Literal, cast

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from opencode_tasks.errors import InputError

Format = Literal["csv", "jsonl", "parquet"]

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
    ".parquet": "parquet",
}
SUFFIXES = "csv, csv.gz, jsonl, ndjson or parquet"

_TEXTS = {kind: pd.ArrowDtype(kind) for kind in (pa.string(), pa.large_string())}

_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}

CELL_LIMIT = 64 * 1024 * 1024


def format_of(path_or_url: str | os.PathLike[str]) -> Format | None:
    """The format that the name's suffix (any case) stands for; None for an unknown one."""
    name = os.fspath(path_or_url).lower()
    return next((form for suffix, form in _SUFFIXES.items() if name.endswith(suffix)), None)


def read_frame(path_or_url: str | os.PathLike[str], *, limit: int | None = None) -> pd.DataFrame:
    """The table at a path or URL, its first ``limit`` rows where given, with a plain range index.

    CSV columns are Python strings, "" where a cell is empty, and a header alone is a frame of no
    rows. JSON Lines columns are Python objects as JSON has them (whole numbers exact, nested
    values kept), None where a line lacks the key. InputError with one line naming INPUT, and the
    line where there is one, for whatever cannot be read.
    """
    name = os.fspath(path_or_url)
    form = format_of(name)
    if form is None:
        raise InputError((f"INPUT {name}: unknown suffix; use {SUFFIXES}",))
    content = _content(name)
    if not content:
        raise InputError((f"INPUT {name}: the file is empty",))
    readers: dict[Format, Callable[[str, bytes, int | None], pd.DataFrame]] = {
        "csv": _read_csv,
        "jsonl": _read_jsonl,
        "parquet": _read_parquet,
    }
    return readers[form](name, content, limit)


def _content(name: str) -> bytes:
    compression = "gzip" if name.lower().endswith(".gz") else None
    try:
        opened: Any = fsspec.open(name, "rb", compression=compression)
        with opened as file:
            return file.read()
    except FileNotFoundError as error:
        raise InputError((f"INPUT {name}: no such file",)) from error
    # What can go wrong depends on the URL's own driver (credentials, network, protocols).
    except Exception as error:
        raise InputError((f"INPUT {name}: cannot be read: {_one_line(error)}",)) from error


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError((f"INPUT {name}, line {line}: not UTF-8; save the file as UTF-8",)) from error


def _read_csv(name: str, content: bytes, limit: int | None) -> pd.DataFrame:
    # The csv module and not pandas: pandas pads short lines, and says of long ones less clearly
    # where they are.
    text = _text(name, content)
    previous = csv.field_size_limit(CELL_LIMIT)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            header = next((cells for cells in reader if cells), None)
            rows = [] if header is None else list(islice(_csv_rows(name, reader, header), limit))
        except csv.Error as error:
            raise InputError((f"INPUT {name}, line {reader.line_num}: not CSV: {error}",)) from error
    finally:
        csv.field_size_limit(previous)
    if header is None:
        raise InputError((f"INPUT {name}: the file is empty",))
    return pd.DataFrame(rows, columns=pd.Index(header, dtype=object), dtype=object)


def other_separator(header: str) -> str | None:
    """The separator, in words, of a CSV whose header line was read as this one column; None if unknown."""
    return next((words for sign, words in _OTHER_SEPARATORS.items() if sign in header), None)


def _csv_rows(name: str, reader: Any, header: list[str]) -> Iterator[list[str]]:
    begin = reader.line_num + 1
    for cells in cast("Iterator[list[str]]", reader):
        # A blank line is no row; in a table of one column it is an empty cell written as "".
        if cells:
            if len(cells) != len(header):
                separator = other_separator(header[0]) if len(header) == 1 else None
                hint = f"; the file is separated by {separator}: save it with commas" if separator else ""
                fault = f"INPUT {name}, line {begin}: {len(cells)} cells, the header has {len(header)}{hint}"
                raise InputError((fault,))
            yield cells
        begin = reader.line_num + 1


def _read_jsonl(name: str, content: bytes, limit: int | None) -> pd.DataFrame:
    columns: dict[str, None] = {}
    rows: list[dict[str, Any]] = []
    for row in islice(_jsonl_rows(name, _text(name, content)), limit):
        columns.update(dict.fromkeys(row))
        rows.append(row)
    data = {column: pd.Series([row.get(column) for row in rows], dtype=object) for column in columns}
    return pd.DataFrame(data, index=pd.RangeIndex(len(rows)), columns=pd.Index(list(columns), dtype=object))


def _jsonl_rows(name: str, text: str) -> Iterator[dict[str, Any]]:
    # Not splitlines: JSON text may hold U+2028 and its like unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError((f"INPUT {name}, line {number}: not JSON: {_one_line(error)}",)) from error
        if not isinstance(row, dict):
            raise InputError((f"INPUT {name}, line {number}: not a JSON object",))
        yield cast("dict[str, Any]", row)


def _read_parquet(name: str, content: bytes, limit: int | None) -> pd.DataFrame:
    try:
        # Texts stay in Arrow: a million of them as Python objects would be most of the memory.
        frame = pq.read_table(io.BytesIO(content)).to_pandas(types_mapper=_TEXTS.get)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise InputError((f"INPUT {name}: not Parquet: {_one_line(error)}",)) from error
    return frame.head(len(frame) if limit is None else limit).reset_index(drop=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
