"""An input that grows: each run of its series takes the rows that have no answer yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd
from prefect.context import FlowRunContext

from opencode_tasks.frames.sql import is_sql
from opencode_tasks.frames.validate import row_ids_in, take_rows
from opencode_tasks.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class IncrementalInput:
    """The series of runs over one INPUT by one ``key``, the column that says which row is which."""

    series: str
    key: str

    @classmethod
    def of(cls, source: str, key: str | None) -> Self | None:
        """The series of an input; None without a key."""
        if key is None:
            return None
        place = source if is_sql(source) or "://" in source else str(Path(source).absolute())
        return cls(series=f"{key} of {place}", key=key)

    def rows(
        self, frame: pd.DataFrame, ledger: Ledger, *, run_id: str | None, limit: int | None, refresh: bool
    ) -> pd.DataFrame:
        """The rows for this run: those that it took before where it goes on, else the new ones.

        New is what no run of the series has completed; with ``refresh`` all are. A run goes on that
        is named or that this flow run began. ``limit`` bounds a new run. The index is a plain range.
        """
        if self.key not in frame.columns:
            # Told where the columns are checked.
            return frame
        ids = row_ids_in(frame, self.key)
        going_on = run_id or self._begun_here(ledger)
        mine = ledger.series.row_ids_of_run(self.series, going_on) if going_on else None
        if mine is not None:
            taken = [row_id in mine for row_id in ids]
        else:
            answered = ledger.series.completed_rows(self.series)
            taken = [refresh or row_id not in answered for row_id in ids]
        places = [place for place, is_taken in enumerate(taken) if is_taken]
        return take_rows(frame, places if mine is not None else places[:limit])

    def _begun_here(self, ledger: Ledger) -> str | None:
        context = FlowRunContext.get()
        if context is None or context.flow_run is None:
            return None
        return ledger.series.run_of_flow_run(self.series, str(context.flow_run.id))
