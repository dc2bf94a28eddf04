"""JSON Lines files: one JSON object per line."""

# pandas has no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

import pandas as pd

from opencode_tasks.domain.json_in_text import MAX_DEPTH
from opencode_tasks.domain.json_values import is_deeper
from opencode_tasks.errors import InputError
from opencode_tasks.frames.cells import json_text, json_value
from opencode_tasks.frames.content import decode_text, one_line


def read_jsonl(name: str, content: bytes, limit: int | None) -> pd.DataFrame:
    """Parse a JSON Lines file; ``name`` is used in error messages, ``limit`` is the maximum number of rows.

    Columns are Python objects as in JSON: integers are exact, and nested values are kept. A cell is None
    if the value is null or if the line does not have the key. Raises InputError if a line is not a JSON
    object.
    """
    columns: dict[str, None] = {}
    rows: list[dict[str, Any]] = []
    for row in islice(_rows(name, decode_text(name, content)), limit):
        columns.update(dict.fromkeys(row))
        rows.append(row)
    data = {column: pd.Series([row.get(column) for row in rows], dtype=object) for column in columns}
    return pd.DataFrame(data, index=pd.RangeIndex(len(rows)), columns=pd.Index(list(columns), dtype=object))


def _rows(name: str, text: str) -> Iterator[dict[str, Any]]:
    # Not splitlines: JSON text may contain U+2028 and similar characters unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError((f"INPUT {name}, line {number}: not JSON: {one_line(error)}",)) from error
        if not isinstance(row, dict):
            raise InputError((f"INPUT {name}, line {number}: not a JSON object",))
        # OUTPUT repeats the cell, and its writers recurse. Counting is fast and decides for most lines.
        if line.count("[") + line.count("{") > MAX_DEPTH and is_deeper(row, MAX_DEPTH):
            fault = f"INPUT {name}, line {number}: nested more than {MAX_DEPTH} levels deep"
            raise InputError((fault,))
        yield cast("dict[str, Any]", row)


def write_jsonl(frames: Iterable[pd.DataFrame], file: Any) -> None:
    """Write frames as one JSON Lines file in UTF-8. Nested values are kept, and null is null."""
    for frame in frames:
        names = [str(name) for name in frame.columns]
        columns = [map(json_value, frame.iloc[:, at].tolist()) for at in range(len(names))]
        lines = (f"{json_text(dict(zip(names, row, strict=True)))}\n" for row in zip(*columns, strict=True))
        file.write("".join(lines).encode("utf-8", "backslashreplace"))
