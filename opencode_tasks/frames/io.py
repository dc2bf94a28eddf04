"""INPUT and OUTPUT, whatever they are: a file, a folder of Parquet files, or a table of a database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from opencode_tasks.frames.partitioned import parts_faults, read_parts, write_parts
from opencode_tasks.frames.read import format_of, read_frame
from opencode_tasks.frames.sql import is_sql, read_sql, table_faults, write_sql
from opencode_tasks.frames.write import check_output, write_frames


def read_input(name: str, *, database: str | None = None, limit: int | None = None) -> pd.DataFrame:
    """The table at a path or URL, in a folder (its name ends with ``/``), or of ``sql:``.

    Its first ``limit`` rows where given. Raises InputError with one line where it cannot be read.
    """
    if is_sql(name):
        return read_sql(name, database, limit=limit)
    if name.endswith("/"):
        frame = read_parts(name)
        return frame.head(len(frame) if limit is None else limit).reset_index(drop=True)
    return read_frame(name, limit=limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where answers go. ``database`` is that of ``sql:`` tables.

    A table's rows are replaced by ``key``, a column; without one the table is this output alone.
    ``partition_by`` makes a folder of Parquet files, a folder for each value of these columns; where
    the output ``grows``, those of earlier runs stay in it.
    """

    name: str
    database: str | None = field(default=None, repr=False)
    key: str | None = None
    partition_by: tuple[str, ...] = ()
    grows: bool = False

    def faults(self, source: str, columns: Sequence[str] | None) -> list[str]:
        """One line for each reason why it could not be written.

        ``columns`` are what it will have, None where that is not known.
        """
        if is_sql(self.name):
            faults = table_faults(self.name, self.database, columns)
            if self.name == source:
                faults.append(f"OUTPUT {self.name}: the same table as INPUT; name another")
            return [*faults, *self._partition_faults("a table")]
        if self.partition_by:
            if format_of(self.name.rstrip("/")) != "parquet":
                return self._partition_faults("no .parquet name")
            return parts_faults(self.name, self.partition_by, columns)
        return check_output(self.name, input_path=source)

    def write(self, frames: Iterable[pd.DataFrame], run_id: str) -> None:
        """Write a run's output, given in parts of the same columns; again and again the same.

        A database's table is written from all of them at once. OSError where the place refuses.
        """
        if is_sql(self.name):
            write_sql(pd.concat(list(frames)), self.name, self.database, key=self.key)
        elif self.partition_by:
            write_parts(frames, self.name, self.partition_by, run_id=run_id, keep_others=self.grows)
        else:
            write_frames(frames, self.name)

    def _partition_faults(self, what: str) -> list[str]:
        if not self.partition_by:
            return []
        return [f"--partition-by: OUTPUT {self.name} is {what}; it makes a folder of Parquet files"]
