"""Folders of files, partitioned into ``column=value`` folders. Each run writes its own files."""

# pandas, pyarrow and fsspec have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from opencode_tasks.errors import InputError
from opencode_tasks.frames.arrow_frame import arrow_table, frame_of, without_empty_structs
from opencode_tasks.frames.content import InputFile, one_line
from opencode_tasks.frames.formats import FileFormat, format_of

MAX_FOLDERS = 10_000
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
    fields = [table.schema.field(name) for name in partition_by]
    written: list[str] = []

    def add_written(file: Any) -> None:
        written.append(file.path)

    try:
        ds.write_dataset(
            table,
            path,
            filesystem=filesystem,
            format="parquet",
            basename_template=f"{run_id}-{{i}}.parquet",
            partitioning=ds.partitioning(pa.schema(fields), flavor="hive"),
            existing_data_behavior="overwrite_or_ignore",
            max_partitions=MAX_FOLDERS,
            file_visitor=add_written,
        )
    except pa.ArrowException as error:
        raise OSError(
            f"OUTPUT {folder}: {one_line(error)}; opencode-tasks export writes it to another place"
        ) from None
    # A row moves to another folder if its status changes between two writes of a run.
    current = {_without_root(name) for name in written}
    for name in previous:
        if _without_root(name) not in current:
            filesystem.rm_file(name)


def read_parts(file: InputFile) -> pd.DataFrame:
    """Return the rows of all files below a folder, in the order of their names.

    The files are Parquet files, or files of one other format of ``FORMATS``. The values of ``column=value``
    folders are columns; they are integers if each of them is written as one, else text. Raises InputError
    if the folder has no such files, or if they cannot be read as one table.
    """
    try:
        filesystem, path = _open_folder(file.name)
        names = sorted(name for name in filesystem.find(path) if _is_data(name, path))
        formats = {found.name: found for name in names if (found := format_of(name)) is not None}
        if len(formats) != 1:
            found = " and ".join(sorted(formats)) or "no"
            raise InputError(
                (f"INPUT {file.name}: a folder with files of one format is needed; it has {found} files",)
            )
        (file_format,) = formats.values()
        names = [name for name in names if format_of(name) is file_format]
        return _read_files(
            file,
            file_format,
            [(filesystem.unstrip_protocol(name), _partitions(name, path)) for name in names],
        )
    except (pa.ArrowException, ValueError, OSError) as error:
        raise InputError(
            (f"INPUT {file.name}: not a folder of files of one table: {one_line(error)}",)
        ) from None


def _read_files(
    file: InputFile, file_format: FileFormat, parts: list[tuple[str, dict[str, str | None]]]
) -> pd.DataFrame:
    tables: list[Any] = []
    schema = _partition_schema([keys for _, keys in parts])
    rows = 0
    for name, keys in parts:
        if file.limit is not None and rows >= file.limit > 0:
            break
        part = replace(
            file, name=name, limit=None if file.limit is None else file.limit - rows, row_faults={}
        )
        table = arrow_table([file_format.read(part)])
        for field in schema:
            if field.name not in table.column_names:
                value = pa.scalar(keys.get(field.name), pa.string()).cast(field.type)
                table = table.append_column(field, pa.repeat(value, len(table)))
        file.row_faults.update(
            {rows + position: f"{name}: {fault}" for position, fault in part.row_faults.items()}
        )
        rows += len(table)
        tables.append(table)
    return frame_of(pa.concat_tables(tables, promote_options="permissive"))


def _is_data(name: str, folder: str) -> bool:
    """Whether a file holds data: no part of its path below the folder begins with a dot or an underscore."""
    below = _without_root(name).removeprefix(_without_root(folder)).strip("/")
    return not any(part.startswith((".", "_")) for part in below.split("/"))


def _partitions(name: str, folder: str) -> dict[str, str | None]:
    """The columns in the ``column=value`` folders of a path."""
    below = _without_root(name).removeprefix(_without_root(folder)).strip("/")
    pairs = (part.partition("=") for part in below.split("/")[:-1] if "=" in part)
    return {unquote(key): None if value == _NULL_FOLDER else unquote(value) for key, _, value in pairs}


def _partition_schema(keys: list[dict[str, str | None]]) -> Any:
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


def folder_faults(folder: str, partition_by: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    """Return one line for each reason why ``write_parts`` would fail; ``columns`` None is unknown."""
    faults = [
        f"--partition-by: OUTPUT will have no column {name!r}"
        for name in partition_by
        if columns is not None and name not in columns
    ]
    try:
        filesystem, path = _open_folder(folder)
    except (ValueError, ImportError) as error:
        return [*faults, f"OUTPUT {folder}: {error}"]
    if isinstance(filesystem, fsspec.get_filesystem_class("file")) and filesystem.isfile(path):
        faults.append(f"OUTPUT {folder}: this is a file; use the name of a folder")
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
