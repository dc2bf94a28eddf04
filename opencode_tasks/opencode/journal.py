"""Journal: the file in which the plugin reports what opencode's events do not show.

Each line is a JSON object with its number from 1, ``n``, and a ``kind``: ``loaded`` (the plugin is
loaded), ``event`` (an event of opencode, in ``event``), ``alive`` (bytes from the provider that make no
event, such as a keep-alive comment; ``session`` is the session of the request), ``lost`` (a model call that
failed, that opencode repeats, and that may have cost something), ``files`` (the number of attached files),
and others for diagnosis.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast


class JournalReader:
    """Reads the lines that were added to a journal since the last call.

    ``is_whole`` is whether no line before the last one is missing: none was lost on a full disk, and no
    other process wrote into the journal.
    """

    def __init__(self, path: Path) -> None:
        self.is_whole: bool = True
        self._path = path
        self._position = 0
        self._last = 0

    def new_records(self) -> list[Mapping[str, Any]]:
        """The records of the complete new lines; empty if there are none or the file does not exist."""
        try:
            if self._path.stat().st_size <= self._position:
                return []
            with self._path.open("rb") as journal:
                journal.seek(self._position)
                data = journal.read()
        except FileNotFoundError:
            return []
        whole = data.rpartition(b"\n")[0]
        if not whole:
            return []
        self._position += len(whole) + 1
        records = [record for line in whole.splitlines() if (record := _record_in(line)) is not None]
        for record in records:
            self.is_whole &= record.get("n") == self._last + 1
            self._last += 1
        return records


def _record_in(line: bytes) -> Mapping[str, Any] | None:
    """The record of a line; None for a line that was written in part, as on a full disk."""
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, Any]", record) if isinstance(record, dict) else None
