"""INPUT and OUTPUT of a run: a file, a folder of Parquet files, or a table of a database.

To add a **file format**, add a line to ``FORMATS`` in ``formats``: its name, its suffixes, a function that
reads it and a function that writes it. Nothing else in the package knows the formats.

| INPUT or OUTPUT | name | module |
|---|---|---|
| a file, local or at an fsspec URL | a known suffix | ``formats``, ``read``, ``write`` |
| a folder of Parquet files | ends with ``/``, or OUTPUT with ``--partition-by`` | ``partitioned`` |
| a table or query of a database | begins with ``sql:`` | ``sql`` |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from opencode_tasks.frames.formats import format_of
from opencode_tasks.frames.partitioned import folder_faults, read_parts, write_parts
from opencode_tasks.frames.read_file import read_frame
from opencode_tasks.frames.sql import is_sql, read_sql, table_faults, write_sql
from opencode_tasks.frames.write_file import file_faults, write_frames


def read_input(name: str, *, database: str | None = None, limit: int | None = None) -> pd.DataFrame:
    """Return the table with this name, at most ``limit`` rows if given.

    ``database`` is the URL of the database for ``sql:``. Raises InputError with one line if the table
    cannot be read.
    """
    if is_sql(name):
        return read_sql(name, database, limit=limit)
    if name.endswith("/"):
        frame = read_parts(name)
        return frame.head(len(frame) if limit is None else limit).reset_index(drop=True)
    return read_frame(name, limit=limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The output of a run: a file, a folder or a table.

    ``database`` is the URL of the database for ``sql:`` tables. ``key`` is the column by which rows of a
    table are replaced; None replaces the whole table. ``prefix`` precedes the names of the columns that the
    run adds. ``partition_by`` are columns: the output is then a
    folder of Parquet files with a folder for each of their values, and with ``grows`` the files of
    earlier runs are kept.
    """

    name: str
    database: str | None = field(default=None, repr=False)
    key: str | None = None
    prefix: str = ""
    partition_by: tuple[str, ...] = ()
    grows: bool = False

    def faults(self, source: str, columns: Sequence[str] | None) -> list[str]:
        """Return one line for each reason why the output cannot be written.

        ``source`` is the name of INPUT. ``columns`` are the columns of the output; None if unknown.
        """
        if is_sql(self.name):
            faults = table_faults(self.name, self.database, columns, self.prefix)
            if self.name == source:
                faults.append(f"OUTPUT {self.name}: this is the INPUT table; use another name")
            return [*faults, *self._partition_faults()]
        if self.partition_by:
            file_format = format_of(self.name.rstrip("/"))
            if file_format is None or file_format.name != "parquet":
                return self._partition_faults()
            return folder_faults(self.name, self.partition_by, columns)
        return file_faults(self.name, input_path=source)

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
            write_frames(frames, self.name)

    def _partition_faults(self) -> list[str]:
        if not self.partition_by:
            return []
        return [f"--partition-by: OUTPUT {self.name} must be a folder with a name that ends with .parquet"]
