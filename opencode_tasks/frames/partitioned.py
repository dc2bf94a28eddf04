"""Folders of files, partitioned into ``column=value`` folders. Each run writes its own files."""

# pandas, pyarrow and fsspec have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from opencode_tasks.errors import InputError
from opencode_tasks.frames.arrow_frame import (
    ColumnBuilder,
    arrow_series,
    arrow_table,
    frame_of,
    without_empty_structs,
)
from opencode_tasks.frames.content import InputFile, one_line
from opencode_tasks.frames.formats import FileFormat, format_of
from opencode_tasks.frames.parquet_file import write_parquet
from opencode_tasks.frames.write_file import column_faults

MAX_FOLDERS = 10_000
MAX_NOTES = 5
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
# A file that a run wrote; the first group is the id of the run.
_RUN_FILE = re.compile(r"/([0-9]{8}-[0-9]{6}-[0-9a-f]{6})-[0-9]+\.parquet$")


def write_parts(
    frames: Iterable[pd.DataFrame],
    folder: str,
    partition_by: Sequence[str],
    *,
    run_id: str,
    keep_others: bool,
) -> None:
    """Write the rows of a run below ``folder`` and remove the files that the run wrote before.

    The files of other runs are removed too, unless ``keep_others``. Files that no run wrote are kept.
    Raises OSError if the folder cannot be written.
    """
    filesystem, path = _open_folder(folder)
    previous = [
        name
        for name in _parquet_files(filesystem, path)
        if (match := _RUN_FILE.search(name)) and (match[1] == run_id or not keep_others)
    ]
    table = without_empty_structs(arrow_table(frames))
    try:
        written = _write_dataset(table, path, filesystem, partition_by, f"{run_id}-{{i}}.parquet")
    except pa.ArrowException as error:
        raise OSError(
            f"OUTPUT {folder}: {one_line(error)}; opencode-tasks export writes it to another place"
        ) from None
    # A row moves to another folder if its status changes between two writes of a run.
    current = {_without_root(name) for name in written}
    for name in previous:
        if _without_root(name) not in current:
            filesystem.rm_file(name)


def _write_dataset(
    table: Any, path: str, filesystem: Any, partition_by: Sequence[str], file_name: str
) -> list[str]:
    """Write the files of a table and return their paths."""
    # A table without rows may lack the columns of its input.
    fields = [table.schema.field(name) for name in partition_by if len(table) or name in table.column_names]
    written: list[str] = []

    def add_written(file: Any) -> None:
        written.append(file.path)

    ds.write_dataset(
        table,
        path,
        filesystem=filesystem,
        format="parquet",
        basename_template=file_name,
        partitioning=ds.partitioning(pa.schema(fields), flavor="hive"),
        existing_data_behavior="overwrite_or_ignore",
        max_partitions=MAX_FOLDERS,
        file_visitor=add_written,
    )
    return written


def read_parts(file: InputFile) -> pd.DataFrame:
    """Return the rows of all files below a folder, in the order of their names.

    The files are Parquet files, or files of one other format of ``FORMATS``. The values of ``column=value``
    folders are columns; they are integers if each of them is written as one, else text. A column of a format
    without types, such as JSON Lines, has the cells that it would have in one file. Raises InputError if the
    folder has no such files, or if a column has types that do not fit together.
    """
    try:
        filesystem, path = _open_folder(file.name)
        names = sorted(name for name in filesystem.find(path) if _is_data(name, path))
    except (ValueError, OSError, ImportError) as error:
        raise InputError((f"INPUT {file.name}: the folder cannot be read: {one_line(error)}",)) from None
    formats = {found.name: found for name in names if (found := format_of(name)) is not None}
    if len(formats) != 1:
        found = " and ".join(sorted(formats)) or "no"
        raise InputError(
            (f"INPUT {file.name}: a folder with files of one format is needed; it has {found} files",)
        )
    (file_format,) = formats.values()
    parts = {
        filesystem.unstrip_protocol(name): _partitions(name, path)
        for name in names
        if format_of(name) is file_format
    }
    frames = _read_files(file, file_format, parts)
    return _joined_by_type(frames) if file_format.has_types else _joined_by_value(frames.values())


def _read_files(
    file: InputFile, file_format: FileFormat, parts: Mapping[str, Mapping[str, str | None]]
) -> dict[str, pd.DataFrame]:
    """Return the rows of each file by its name, with the columns of its folders."""
    frames: dict[str, pd.DataFrame] = {}
    schema = _partition_schema(parts.values())
    rows, notes = 0, list[str]()
    for name, keys in parts.items():
        if file.limit is not None and rows >= file.limit > 0:
            break
        part = replace(
            file,
            name=name,
            limit=None if file.limit is None else file.limit - rows,
            row_faults={},
            notes=[],
        )
        frame = file_format.read(part)
        if repeated := frame.columns[frame.columns.duplicated()].tolist():
            raise InputError(
                (f"INPUT {name}: several columns are named {repeated[0]!r}; rename all but one",)
            )
        for field in schema:
            if field.name not in frame.columns:
                value = pa.scalar(keys.get(field.name), pa.string()).cast(field.type)
                frame[field.name] = arrow_series(pa.repeat(value, len(frame)))
        file.row_faults.update(
            {rows + position: f"{name}: {fault}" for position, fault in part.row_faults.items()}
        )
        notes += part.notes
        rows += len(frame)
        frames[name] = frame
    file.notes += notes[:MAX_NOTES]
    if len(notes) > MAX_NOTES:
        file.notes.append(f"INPUT {file.name}: {len(notes) - MAX_NOTES} more notes on its files")
    return frames


def _joined_by_value(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return frames as one, with the types that one file with the same rows would have."""
    builder = ColumnBuilder()
    for frame in frames:
        builder.add_frame(frame)
    return builder.frame()


def _joined_by_type(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the frames of files as one. Raises InputError if a column has types that no type can hold."""
    tables = {name: arrow_table([frame]) for name, frame in frames.items()}
    try:
        return frame_of(pa.concat_tables(tables.values(), promote_options="permissive"))
    except pa.ArrowException as error:
        raise InputError((_type_fault(tables) or f"INPUT {next(iter(tables))}: {one_line(error)}",)) from None


def _type_fault(tables: Mapping[str, Any]) -> str | None:
    """Return the fault of the first column whose type in a file does not fit the files before it."""
    known: dict[str, Any] = {}
    for name, table in tables.items():
        for field in table.schema:
            pair = [pa.schema([known.get(field.name, field)]), pa.schema([field])]
            try:
                known[field.name] = pa.unify_schemas(pair, promote_options="permissive").field(0)
            except pa.ArrowException:
                types = f"{field.type} here and {known[field.name].type} in the files before"
                return f"INPUT {name}: the column {field.name!r} has the type {types}; use one type"
    for name, table in tables.items():
        for field in table.schema:
            try:
                table.column(field.name).cast(known[field.name].type)
            except pa.ArrowException as error:
                reason = f"does not fit the type {known[field.name].type} of the other files"
                return f"INPUT {name}: the column {field.name!r} {reason}: {one_line(error)}"
    return None


def _is_data(name: str, folder: str) -> bool:
    """Whether a file holds data: no part of its path below the folder begins with a dot or an underscore."""
    below = _without_root(name).removeprefix(_without_root(folder)).strip("/")
    return not any(part.startswith((".", "_")) for part in below.split("/"))


def _partitions(name: str, folder: str) -> dict[str, str | None]:
    """The columns in the ``column=value`` folders of a path."""
    below = _without_root(name).removeprefix(_without_root(folder)).strip("/")
    pairs = (part.partition("=") for part in below.split("/")[:-1] if "=" in part)
    return {unquote(key): None if value == _NULL_FOLDER else unquote(value) for key, _, value in pairs}


def _partition_schema(keys: Iterable[Mapping[str, str | None]]) -> Any:
    columns: dict[str, list[str]] = {}
    for values in keys:
        for name, value in values.items():
            columns.setdefault(name, []).extend([] if value is None else [value])
    return pa.schema(
        [
            (name, pa.int64() if values and all(map(_INTEGER.fullmatch, values)) else pa.string())
            for name, values in columns.items()
        ]
    )


def folder_faults(
    folder: str,
    partition_by: Sequence[str],
    columns: Sequence[str] | None,
    sample: pd.DataFrame | None = None,
) -> list[str]:
    """Return one line for each reason why ``write_parts`` would fail; ``columns`` None is unknown.

    The rows of ``sample`` are written elsewhere, to find columns that Parquet or the name of a folder cannot
    hold.
    """
    faults = [
        f"--partition-by: OUTPUT will have no column {name!r}"
        for name in partition_by
        if columns is not None and name not in columns
    ]
    try:
        filesystem, path = _open_folder(folder)
    except (ValueError, ImportError, OSError) as error:
        return [*faults, f"OUTPUT {folder}: {error}"]
    if isinstance(filesystem, fsspec.get_filesystem_class("file")) and filesystem.isfile(path):
        faults.append(f"OUTPUT {folder}: this is a file; use the name of a folder")
    if sample is not None and not faults:
        faults.extend(f"OUTPUT {folder}: {fault}" for fault in column_faults(write_parquet, sample))
    return faults or _key_faults(partition_by, sample)


def _key_faults(partition_by: Sequence[str], sample: pd.DataFrame | None) -> list[str]:
    if sample is None or not sample.columns.is_unique:
        return []
    faults: list[str] = []
    for name in partition_by:
        table = arrow_table([sample.loc[:, [name]]]).append_column("", pa.nulls(len(sample)))
        with tempfile.TemporaryDirectory() as folder:
            try:
                _write_dataset(table, folder, fsspec.filesystem("file"), [name], "{i}.parquet")
            except pa.ArrowException as error:
                faults.append(f"--partition-by: {name!r} cannot be the name of a folder: {one_line(error)}")
    return faults


def _open_folder(folder: str) -> tuple[Any, str]:
    """Return the filesystem of a URL and the path in it."""
    filesystem, path = fsspec.core.url_to_fs(folder)
    return filesystem, path.rstrip("/")


def _parquet_files(filesystem: Any, path: str) -> list[str]:
    filesystem.invalidate_cache()
    return filesystem.glob(f"{path}/**/*.parquet") if filesystem.exists(path) else []


def _without_root(path: str) -> str:
    return path.lstrip("/")
