"""Export of the rows of a run as records for other programs: predictions, trajectories, conversations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from opencode_tasks.engine.left_out import RowNotes
from opencode_tasks.engine.predictions import predictions
from opencode_tasks.engine.run_check import checked_run
from opencode_tasks.engine.trajectories import trajectories
from opencode_tasks.errors import InputError
from opencode_tasks.frames.content import compression_of
from opencode_tasks.frames.formats import format_of
from opencode_tasks.frames.write_file import file_faults, write_records
from opencode_tasks.ledger import Ledger

RecordFormat = Literal["swebench", "atif", "sharegpt"]
# The name of a record.
NOUNS: Mapping[RecordFormat, str] = {
    "swebench": "predictions",
    "atif": "trajectories",
    "sharegpt": "conversations",
}
SUFFIXES = ("jsonl", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordExport:
    """A finished export: the number of records, and lines about the rows that are left out or changed."""

    records: int
    notes: Sequence[str]


def export_records(ledger: Ledger, run_id: str, target: str, record_format: RecordFormat) -> RecordExport:
    """Write a record for each row of a run, in input order, a few rows in memory at a time.

    The outcome of a row counts: of a run with votes or several models the answer that was chosen, of a
    reused answer the earlier row. Canaries are no rows of the run. Raises InputError if the run does not
    exist, if it has nothing to write, or if the target cannot be written; a file of that name is then as it
    was.
    """
    run = checked_run(run_id, ledger.runs.get(run_id))
    if faults := [*_suffix_faults(target, record_format), *file_faults(target)]:
        raise InputError(tuple(faults[:1]))
    notes, count = RowNotes(), _Counter()
    try:
        write_records(count.counted(_records(ledger, run, record_format, notes)), target)
    except OSError as error:
        raise InputError((f"OUTPUT {target}: {error.strerror or error}",)) from error
    return RecordExport(records=count.total, notes=notes.lines)


def _records(
    ledger: Ledger, run: Mapping[str, Any], record_format: RecordFormat, notes: RowNotes
) -> Iterator[str]:
    if record_format == "swebench":
        return predictions(ledger, run, notes)
    return trajectories(ledger, run, record_format, notes)


def _suffix_faults(target: str, record_format: RecordFormat) -> list[str]:
    found = format_of(target)
    if found is None or found.name not in SUFFIXES:
        return [f"OUTPUT {target}: --format {record_format} writes files that end with .jsonl or .json"]
    if record_format == "swebench" and compression_of(target) is not None:
        return [f"OUTPUT {target}: the harness of SWE-bench reads no compressed file; use .jsonl or .json"]
    if record_format == "swebench" and not target.endswith(tuple(f".{suffix}" for suffix in SUFFIXES)):
        return [f"OUTPUT {target}: the harness of SWE-bench reads files that end with .jsonl or .json"]
    return []


class _Counter:
    """Counts the records that pass."""

    def __init__(self) -> None:
        self.total = 0

    def counted(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            self.total += 1
            yield line
