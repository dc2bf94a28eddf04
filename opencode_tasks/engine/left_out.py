"""Rows that an export leaves out or changes, counted by reason for one line each."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN_IDS = 3


class RowNotes:
    """Counts of rows by reason. Only the first ids of each reason are kept, however many rows there are."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._ids: dict[str, list[str]] = {}
        self._said: list[str] = []

    def say(self, line: str) -> None:
        """Add a line about all rows."""
        self._said.append(line)

    def add(self, reason: str, row_id: str) -> None:
        """Count a row under a reason, a text that follows the number of rows."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        ids = self._ids.setdefault(reason, [])
        if len(ids) < SHOWN_IDS:
            ids.append(row_id)

    @property
    def lines(self) -> Sequence[str]:
        """Lines about all rows, then one for each reason with the first ids."""
        return self._said + [self._line(reason, count) for reason, count in self._counts.items()]

    def _line(self, reason: str, count: int) -> str:
        ids = ", ".join(self._ids[reason]) + (", …" if count > SHOWN_IDS else "")
        return f"{count} {'row' if count == 1 else 'rows'} {reason}: {ids}"
