"""Folders of Parquet files, partitioned into ``column=value`` folders. Each run writes its own files."""

# pandas, pyarrow and fsspec have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from opencode_tasks.errors import InputError
from opencode_tasks.frames.content import one_line
from opencode_tasks.frames.parquet_file import arrow_table

MAX_FOLDERS = 10_000
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
    table = arrow_table(frames)
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


def read_parts(folder: str) -> pd.DataFrame:
    """Return all rows below a folder of Parquet files in a fixed order; partition columns are included.

    Raises InputError if the folder cannot be read as Parquet files.
    """
    filesystem, path = _open_folder(folder)
    try:
        dataset = ds.dataset(path, filesystem=filesystem, format="parquet", partitioning="hive")
        return dataset.to_table().to_pandas()
    except (pa.ArrowException, ValueError, OSError) as error:
        raise InputError((f"INPUT {folder}: not a folder of Parquet files: {one_line(error)}",)) from None


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
