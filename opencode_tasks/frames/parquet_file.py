"""Parquet files. Columns keep their types in both directions."""

# pandas and pyarrow have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from opencode_tasks.errors import InputError
from opencode_tasks.frames.cells import json_text, json_value
from opencode_tasks.frames.content import one_line

_TEXT_TYPES = {arrow_type: pd.ArrowDtype(arrow_type) for arrow_type in (pa.string(), pa.large_string())}


def read_parquet(name: str, content: bytes, limit: int | None) -> pd.DataFrame:
    """Parse a Parquet file; ``name`` is used in error messages, ``limit`` is the maximum number of rows.

    Raises InputError if the file is not Parquet.
    """
    try:
        # Texts stay in Arrow: as Python objects, a million of them would be most of the memory.
        frame = pq.read_table(io.BytesIO(content)).to_pandas(types_mapper=_TEXT_TYPES.get)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise InputError((f"INPUT {name}: not Parquet: {one_line(error)}",)) from error
    return frame.head(len(frame) if limit is None else limit).reset_index(drop=True)


def write_parquet(frames: Iterable[pd.DataFrame], file: Any) -> None:
    """Write frames as one Parquet file; see ``arrow_table`` for values without a Parquet type."""
    pq.write_table(arrow_table(frames), file)


def arrow_table(frames: Iterable[pd.DataFrame]) -> Any:
    """Return frames with the same columns, one at least, as one Arrow table without their index.

    A column is JSON text if Parquet has no type for its values, or if its frames have no common type.
    """
    tables = [
        pa.table(
            [_arrow_column(frame.iloc[:, at]) for at in range(len(frame.columns))],
            names=[str(name) for name in frame.columns],
        )
        for frame in frames
    ]
    if len(tables) == 1:
        return tables[0]
    names = tables[0].column_names
    return pa.table(
        [_join_parts([table.column(at) for table in tables]) for at in range(len(names))], names=names
    )


def _join_parts(parts: list[Any]) -> Any:
    """Return the parts of a column as one; a part with nulls only takes the type of the others."""
    types = {part.type for part in parts if part.null_count < len(part)} or {parts[0].type}
    null_type = pa.null() if len(types) > 1 else next(iter(types))
    typed = [part if part.null_count < len(part) else pa.nulls(len(part), null_type) for part in parts]
    try:
        tables = [pa.table([part], names=[""]) for part in typed]
        return pa.concat_tables(tables, promote_options="permissive").column(0)
    except pa.ArrowException:
        texts = (_text(value) for part in parts for value in part.to_pylist())
        return pa.array(texts, type=pa.string())


def _arrow_column(series: pd.Series) -> Any:
    """Return the column as an Arrow array; as JSON text if Arrow or Parquet has no type for its values."""
    try:
        array = pa.Array.from_pandas(series)
        if pa.types.is_null(array.type):
            return array.cast(pa.string())
        if not _has_structs(array.type):
            return array
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass
    return pa.array([_text(value) for value in series.tolist()], type=pa.string())


def _has_structs(arrow_type: Any) -> bool:
    # Parquet has no struct without fields, and Arrow would add every key to every object.
    if pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type):
        return _has_structs(arrow_type.value_type)
    return pa.types.is_struct(arrow_type) or pa.types.is_null(arrow_type)


def _text(value: Any) -> str | None:
    """Return a string as it is, None for null and JSON text for other values, without lone surrogates."""
    plain = json_value(value)
    if plain is None:
        return None
    text = plain if isinstance(plain, str) else json_text(plain)
    return text.encode("utf-8", "backslashreplace").decode()
