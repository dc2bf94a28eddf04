"""Parquet and Arrow IPC (Feather) files. Columns keep their types in both directions."""

# pandas and pyarrow have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather as pf
import pyarrow.parquet as pq

from opencode_tasks.errors import InputError
from opencode_tasks.frames.arrow_frame import arrow_table, frame_of, without_empty_structs
from opencode_tasks.frames.content import InputFile, one_line

# The first bytes of Arrow IPC files and of their predecessor, Feather 1. A stream has none.
_FILE_MARKS = (b"ARROW1", b"FEA1")


def read_parquet(file: InputFile) -> pd.DataFrame:
    """Read a Parquet file. Raises InputError if the file is not Parquet."""
    return _frame(file, "Parquet", _parquet_table)


def read_arrow(file: InputFile) -> pd.DataFrame:
    """Read an Arrow IPC file, an Arrow stream or a Feather file. Raises InputError if the file is none."""
    return _frame(file, "an Arrow file", _ipc_table)


def write_parquet(frames: Iterable[pd.DataFrame], file: Any) -> None:
    """Write frames as one Parquet file; see ``arrow_table`` for values without a Parquet type."""
    pq.write_table(without_empty_structs(arrow_table(frames)), file)


def write_arrow(frames: Iterable[pd.DataFrame], file: Any) -> None:
    """Write frames as one Arrow IPC file."""
    table = arrow_table(frames)
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _frame(file: InputFile, kind: str, read: Callable[[Any], Any]) -> pd.DataFrame:
    with file.open_bytes() as opened:
        content = io.BytesIO(opened.read())
    try:
        table = read(content)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise InputError((f"INPUT {file.name}: not {kind}: {one_line(error)}",)) from error
    return frame_of(table if file.limit is None else table.slice(0, file.limit))


def _parquet_table(content: io.BytesIO) -> Any:
    # Not read_table: it refuses columns of the same name with a message about something else.
    return pq.ParquetFile(content).read()


def _ipc_table(content: io.BytesIO) -> Any:
    if content.getvalue().startswith(_FILE_MARKS):
        return pf.read_table(content)
    with pa.ipc.open_stream(content) as reader:
        return reader.read_all()
