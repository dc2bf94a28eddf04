"""Partitioned Parquet: a folder with ``column=value`` folders in it, a run's rows in files of its own."""

# pandas, pyarrow and fsspec come without types of their own.
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
from opencode_tasks.frames.write import arrow_table

MAX_FOLDERS = 10_000
# The files that runs of ours make, by the run's id.
_OURS = re.compile(r"/([0-9]{8}-[0-9]{6}-[0-9a-f]{6})-[0-9]+\.parquet$")


def write_parts(
    frames: Iterable[pd.DataFrame],
    folder: str,
    partition_by: Sequence[str],
    *,
    run_id: str,
    keep_others: bool,
) -> None:
    """Write a run's rows below ``folder`` in place of its files there, and of other runs' unless kept.

    What no run wrote stays. OSError where the place refuses.
    """
    filesystem, path = _place(folder)
    before = [
        name
        for name in _files(filesystem, path)
        if (found := _OURS.search(name)) and (found[1] == run_id or not keep_others)
    ]
    table = arrow_table(frames)
    fields = [table.schema.field(name) for name in partition_by]
    written: list[str] = []

    def note(file: Any) -> None:
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
            file_visitor=note,
        )
    except pa.ArrowException as error:
        words = " ".join(str(error).split())[:200]
        raise OSError(f"OUTPUT {folder}: {words}; opencode-tasks export writes it elsewhere") from None
    # A row's folder can change with its status while the run goes on.
    known = {_bare(name) for name in written}
    for old in before:
        if _bare(old) not in known:
            filesystem.rm_file(old)


def read_parts(folder: str) -> pd.DataFrame:
    """All rows below a folder of Parquet files, the folders' columns among the others, in a fixed order."""
    filesystem, path = _place(folder)
    try:
        found = ds.dataset(path, filesystem=filesystem, format="parquet", partitioning="hive")
        return found.to_table().to_pandas()
    except (pa.ArrowException, ValueError, OSError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError((f"INPUT {folder}: not a folder of Parquet files: {words}",)) from None


def parts_faults(folder: str, partition_by: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    """One line for each reason why parts could not be written there."""
    faults = [
        f"--partition-by: OUTPUT will have no column {name!r}"
        for name in partition_by
        if columns is not None and name not in columns
    ]
    try:
        filesystem, path = _place(folder)
    except (ValueError, ImportError) as error:
        return [*faults, f"OUTPUT {folder}: {error}"]
    if isinstance(filesystem, fsspec.get_filesystem_class("file")) and filesystem.isfile(path):
        faults.append(f"OUTPUT {folder}: is a file; name a folder")
    return faults


def _place(folder: str) -> tuple[Any, str]:
    filesystem, path = fsspec.core.url_to_fs(folder)
    return filesystem, path.rstrip("/")


def _files(filesystem: Any, path: str) -> list[str]:
    filesystem.invalidate_cache()
    return filesystem.glob(f"{path}/**/*.parquet") if filesystem.exists(path) else []


def _bare(path: str) -> str:
    return path.lstrip("/")
