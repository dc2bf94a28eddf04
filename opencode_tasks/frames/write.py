"""A frame into OUTPUT: csv, jsonl or parquet by suffix, to any fsspec URL.

A local file appears whole or not at all. What a format cannot hold (nested values in CSV, mixed
types in Parquet) becomes JSON text, so that a paid-for table is always written.
"""

# pandas, pyarrow and fsspec come without types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import gzip
import io
import json
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from opencode_tasks.frames.cells import is_nested, is_null
from opencode_tasks.frames.read import SUFFIXES, Format, format_of

_RUNNABLE = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:[.,][0-9]*)*|[.][0-9]+)(?:[eE][+-]?[0-9]+)?%?")


def check_output(
    path_or_url: str | os.PathLike[str], *, input_path: str | os.PathLike[str] | None = None
) -> list[str]:
    """One line for each reason why OUTPUT could not be written; [] where there is none.

    Nothing is written or created. A remote place is only looked at for its suffix and protocol.
    """
    name = os.fspath(path_or_url)
    faults: list[str] = []
    if format_of(name) is None:
        faults.append(f"OUTPUT {name}: unknown suffix; use {SUFFIXES}")
    try:
        local = _local_path(name)
    except (ValueError, ImportError) as error:
        return [*faults, f"OUTPUT {name}: {error}"]
    if local is not None:
        faults.extend(f"OUTPUT {name}: {fault}" for fault in _place_faults(local))
    if input_path is not None and _same_place(name, os.fspath(input_path)):
        faults.append(f"OUTPUT {name}: the same file as INPUT; name another")
    return faults


def write_frame(frame: pd.DataFrame, path_or_url: str | os.PathLike[str]) -> None:
    """Write the frame, without its index, in the format that the suffix names.

    csv: UTF-8, null as an empty cell, times as ISO with Z, nested values as JSON; text that a
    spreadsheet would run gets a ``'`` before it, plain numbers do not. jsonl: nested values kept,
    null as null. parquet: the columns' own types. ValueError for an unknown suffix, OSError where
    the place refuses.
    """
    write_frames([frame], path_or_url)


def write_frames(frames: Iterable[pd.DataFrame], path_or_url: str | os.PathLike[str]) -> None:
    """Write frames of the same columns, one at least, as one table; see ``write_frame``.

    One frame at a time is held, and of Parquet what Arrow makes of all of them.
    """
    name = os.fspath(path_or_url)
    kind = format_of(name)
    if kind is None:
        raise ValueError(f"OUTPUT {name}: unknown suffix; use {SUFFIXES}")
    with _opened(name) as file:
        if name.lower().endswith(".gz"):
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as compressed:
                _encode(frames, kind, compressed)
        else:
            _encode(frames, kind, file)


def encoded(frame: pd.DataFrame, kind: Format) -> bytes:
    """The frame in a format, as ``write_frame`` writes it."""
    file = io.BytesIO()
    _encode([frame], kind, file)
    return file.getvalue()


def write_bytes(content: bytes, path_or_url: str | os.PathLike[str]) -> None:
    """Write a file; a local one appears whole or not at all. OSError where the place refuses."""
    with _opened(os.fspath(path_or_url)) as file:
        file.write(content)


def _encode(frames: Iterable[pd.DataFrame], kind: Format, file: Any) -> None:
    match kind:
        case "csv":
            for number, frame in enumerate(frames):
                file.write(_csv(frame, header=number == 0).encode("utf-8", "backslashreplace"))
        case "jsonl":
            for frame in frames:
                file.write(_jsonl(frame).encode("utf-8", "backslashreplace"))
        case "parquet":
            pq.write_table(arrow_table(frames), file)


@contextmanager
def _opened(name: str) -> Generator[Any]:
    """A file to write: a local one is put in its place at the end, another is sent then."""
    local = _local_path(name)
    if local is not None:
        with _replacing(local) as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        opened: Any = fsspec.open(name, "wb")
        with opened as target:
            shutil.copyfileobj(file, target)


def _local_path(name: str) -> Path | None:
    filesystem, path = fsspec.core.url_to_fs(name)
    return Path(os.path.realpath(path)) if isinstance(filesystem, LocalFileSystem) else None


def _place_faults(path: Path) -> Iterable[str]:
    folder = path.parent
    if path.is_dir():
        yield "is a folder; name a file"
    elif not folder.is_dir():
        yield f"the folder {folder} does not exist"
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield f"the folder {folder} is not writable"


def _same_place(output: str, source: str) -> bool:
    try:
        first, second = _local_path(output), _local_path(source)
    except (ValueError, ImportError):
        return output == source
    if first is None or second is None:
        return output == source
    return first == second or (first.exists() and second.exists() and first.samefile(second))


@contextmanager
def _replacing(path: Path) -> Generator[Any]:
    partial = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}")
    try:
        # Not tempfile: its mode is 0600, whatever the umask says.
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            partial.chmod(path.stat().st_mode & 0o7777)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _columns(frame: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    return [(str(name), frame.iloc[:, place]) for place, name in enumerate(frame.columns)]


def _csv(frame: pd.DataFrame, *, header: bool) -> str:
    columns = [(name, [_csv_cell(value) for value in series.tolist()]) for name, series in _columns(frame)]
    lines = [",".join(_quoted(_defused(name)) for name, _ in columns)] if header else []
    lines.extend(",".join(cells) for cells in zip(*(cells for _, cells in columns), strict=True))
    return "".join(f"{line}\n" for line in lines)


def _csv_cell(value: Any) -> str:
    plain = _plain(value)
    if isinstance(plain, str):
        # Times never begin with a sign that a spreadsheet would run.
        return _quoted(_defused(plain))
    if plain is None:
        return ""
    return _quoted(_json(plain) if isinstance(plain, (dict, list)) else str(plain))


def _defused(text: str) -> str:
    return f"'{text}" if text.startswith(_RUNNABLE) and not _NUMBER.fullmatch(text) else text


def _quoted(text: str) -> str:
    # The csv module leaves a lone CR unquoted when lines end in LF.
    if text == "" or any(sign in text for sign in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _jsonl(frame: pd.DataFrame) -> str:
    columns = [(name, [_plain(value) for value in series.tolist()]) for name, series in _columns(frame)]
    names = [name for name, _ in columns]
    rows = zip(*(values for _, values in columns), strict=True)
    return "".join(f"{_json(dict(zip(names, row, strict=True)))}\n" for row in rows)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:  # noqa: PLR0911 - one line a kind of value
    """The value as JSON has it: null for what is missing, times as ISO with Z, arrays as lists."""
    if is_null(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if is_nested(value):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        return _plain(value.item())
    if isinstance(value, date):
        return _iso(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, (int, str)) else str(value)


def _iso(value: date) -> str:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value.isoformat()


def arrow_table(frames: Iterable[pd.DataFrame]) -> Any:
    """Frames of the same columns as one table of Arrow's, without their index.

    What Parquet has no type for, and a column whose frames have no type in common, is JSON text.
    """
    tables = [
        pa.table([_arrow(series) for _, series in columns], names=[name for name, _ in columns])
        for columns in map(_columns, frames)
    ]
    if len(tables) == 1:
        return tables[0]
    names = tables[0].column_names
    return pa.table(
        [_joined([table.column(at) for table in tables]) for at in range(len(names))], names=names
    )


def _joined(parts: list[Any]) -> Any:
    """A column of several frames; a part that is all null takes the type of the others."""
    kinds = {part.type for part in parts if part.null_count < len(part)} or {parts[0].type}
    empty = pa.null() if len(kinds) > 1 else next(iter(kinds))
    fitted = [part if part.null_count < len(part) else pa.nulls(len(part), empty) for part in parts]
    try:
        tables = [pa.table([part], names=[""]) for part in fitted]
        return pa.concat_tables(tables, promote_options="permissive").column(0)
    except pa.ArrowException:
        texts = (_parquet_text(value) for part in parts for value in part.to_pylist())
        return pa.array(texts, type=pa.string())


def _arrow(series: pd.Series) -> Any:
    """The column in Arrow; JSON text (strings as they are) where Arrow or Parquet has no type for it."""
    try:
        array = pa.Array.from_pandas(series)
        if pa.types.is_null(array.type):
            return array.cast(pa.string())
        if not _holds_structs(array.type):
            return array
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass
    return pa.array([_parquet_text(value) for value in series.tolist()], type=pa.string())


def _holds_structs(kind: Any) -> bool:
    # Parquet has no struct without fields, and Arrow would fill each object up with all keys.
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_structs(kind.value_type)
    return pa.types.is_struct(kind) or pa.types.is_null(kind)


def _parquet_text(value: Any) -> str | None:
    plain = _plain(value)
    if plain is None:
        return None
    text = plain if isinstance(plain, str) else _json(plain)
    return text.encode("utf-8", "backslashreplace").decode()
