"""Incremental input: each run of a series takes only the rows that have no answer yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.frames.io import InputTable
from opencode_tasks.frames.sql import is_sql
from opencode_tasks.frames.validate import row_ids_in
from opencode_tasks.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class IncrementalInput:
    """Series of runs over one INPUT. ``key`` is the column that identifies a row."""

    series: str
    key: str

    @classmethod
    def of(cls, source: str, key: str | None) -> Self | None:
        """Series of an input; None without a key."""
        if key is None:
            return None
        is_path = not is_sql(source) and "://" not in source
        address = str(Path(source).absolute()) if is_path else without_url_secrets(source)
        return cls(series=f"{key} of {address}", key=key)

    def rows(
        self,
        table: InputTable,
        ledger: Ledger,
        *,
        run_id: str | None,
        limit: int | None,
        refresh: bool,
        flow_run_id: str | None = None,
    ) -> InputTable:
        """Rows of ``table`` that a run takes, with a plain range as index.

        A run that continues takes the rows that it had: the run ``run_id``, else the run of the
        series that ``flow_run_id`` started. A new run takes the first ``limit`` rows (None: all) that
        no run of the series has completed, or with ``refresh`` the first rows of the input.
        """
        if self.key not in table.frame.columns:
            # The check of the columns reports it.
            return table
        row_ids = row_ids_in(table.frame, self.key)
        if run_id is None and flow_run_id is not None:
            run_id = ledger.series.run_of_flow_run(self.series, flow_run_id)
        own_rows = None if run_id is None else ledger.series.row_ids_of_run(self.series, run_id)
        if own_rows is not None:
            # A row that could not be read may have no id in the input.
            return table.take(
                [at for at, row_id in enumerate(row_ids) if row_id in own_rows or at in table.row_faults]
            )
        answered = ledger.series.completed_rows(self.series)
        positions = [position for position, row_id in enumerate(row_ids) if refresh or row_id not in answered]
        return table.take(positions[:limit])
