"""INPUT and OUTPUT of a run: a file, a folder of Parquet files, or a table of a database.

To add a **file format**, add a line to ``FORMATS`` in ``formats``: its name, its suffixes, a function that
reads it and a function that writes it. Nothing else in the package knows the formats.

| INPUT or OUTPUT | name | module |
|---|---|---|
| a file, local or at an fsspec URL | a known suffix | ``formats``, ``write_file`` |
| a folder of files | ends with ``/``, or OUTPUT with ``--partition-by`` | ``partitioned`` |
| a table or query of a database | begins with ``sql:`` | ``sql`` |
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from opencode_tasks.errors import InputError
from opencode_tasks.frames.content import InputFile
from opencode_tasks.frames.csv_file import protected
from opencode_tasks.frames.formats import format_of, unknown_suffix
from opencode_tasks.frames.partitioned import folder_faults, read_parts, write_parts
from opencode_tasks.frames.sql import is_sql, read_sql, table_faults, write_sql
from opencode_tasks.frames.validate import take_rows
from opencode_tasks.frames.write_file import file_faults, is_local_file, write_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTable:
    """A table that was read.

    ``row_faults`` are faults of rows that could not be read, by position. ``notes`` are lines for the user.
    """

    frame: pd.DataFrame
    row_faults: Mapping[int, str] = field(default_factory=dict[int, str])
    notes: Sequence[str] = ()

    def take(self, positions: Sequence[int]) -> InputTable:
        """Return the table with the rows at these positions, in this order."""
        faults = {new: self.row_faults[old] for new, old in enumerate(positions) if old in self.row_faults}
        return replace(self, frame=take_rows(self.frame, positions), row_faults=faults)


def read_input(
    name: str | os.PathLike[str], *, database: str | None = None, limit: int | None = None
) -> pd.DataFrame:
    """Return the table with this name, at most ``limit`` rows if given; see ``read_table``."""
    return read_table(os.fspath(name), database=database, limit=limit).frame


def read_table(
    name: str,
    *,
    database: str | None = None,
    limit: int | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    keeps_bad_rows: bool = False,
) -> InputTable:
    """Return the table with this name, at most ``limit`` rows if given, with a plain range index.

    ``database`` is the URL of the database for ``sql:``. ``encoding`` and ``delimiter`` are those of a text
    file. A row that cannot be read is null and has a fault if ``keeps_bad_rows``. No type is guessed: see the
    reader of each format. Raises InputError with one line if the table cannot be read.
    """
    if is_sql(name):
        return InputTable(frame=read_sql(name, database, limit=limit))
    file = InputFile(
        name=name, limit=limit, encoding=encoding, delimiter=delimiter, keeps_bad_rows=keeps_bad_rows
    )
    if name.endswith("/"):
        frame = read_parts(file)
    elif (file_format := format_of(name)) is not None:
        frame = file_format.read(file)
    else:
        raise InputError((f"INPUT {name}: {unknown_suffix()}",))
    return InputTable(frame=frame, row_faults=file.row_faults, notes=file.notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The output of a run: a file, a folder or a table.

    ``database`` is the URL of the database for ``sql:`` tables. ``key`` is the column by which rows of a
    table are replaced; None replaces the whole table. ``prefix`` precedes the names of the columns that the
    run adds. ``partition_by`` are columns: the output is then a
    folder of Parquet files with a folder for each of their values, and with ``grows`` the files of
    earlier runs are kept. ``protects_cells`` marks the cells of a CSV file that a spreadsheet would run.
    """

    name: str
    database: str | None = field(default=None, repr=False)
    key: str | None = None
    prefix: str = ""
    partition_by: tuple[str, ...] = ()
    grows: bool = False
    protects_cells: bool = False

    def faults(
        self, source: str, columns: Sequence[str] | None, sample: pd.DataFrame | None = None
    ) -> list[str]:
        """Return one line for each reason why the output cannot be written.

        ``source`` is the name of INPUT. ``columns`` are the columns of the output; None if unknown.
        ``sample`` are some rows of it, with which writing is tried.
        """
        if is_sql(self.name):
            faults = table_faults(self.name, self.database, columns, self.prefix, sample)
            if self.name == source:
                faults.append(f"OUTPUT {self.name}: this is the INPUT table; use another name")
            return [*faults, *self._partition_faults()]
        if self.partition_by:
            file_format = format_of(self.name.rstrip("/"))
            if file_format is None or file_format.name != "parquet":
                return self._partition_faults()
            return folder_faults(self.name, self.partition_by, columns, sample)
        return file_faults(self.name, input_path=source, sample=sample)

    def replaces_file(self) -> bool:
        """Return whether the output is a local file that exists."""
        return not is_sql(self.name) and is_local_file(self.name)

    def write(self, frames: Iterable[pd.DataFrame], run_id: str) -> None:
        """Write the output of a run, given as frames with the same columns.

        Another call with the same run replaces what the first one wrote. A database table is written from
        all frames at once. Raises OSError if the output cannot be written.
        """
        if is_sql(self.name):
            write_sql(pd.concat(list(frames)), self.name, self.database, key=self.key)
        elif self.partition_by:
            write_parts(frames, self.name, self.partition_by, run_id=run_id, keep_others=self.grows)
        else:
            is_csv = (found := format_of(self.name)) is not None and found.name in ("csv", "tsv")
            write_frames(map(protected, frames) if self.protects_cells and is_csv else frames, self.name)

    def _partition_faults(self) -> list[str]:
        if not self.partition_by:
            return []
        return [f"--partition-by: OUTPUT {self.name} must be a folder with a name that ends with .parquet"]
