"""What a run came to, read from the ledger when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import pandas as pd

from opencode_tasks.domain.json_values import list_in
from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.frames.output import output_frame
from opencode_tasks.ledger import (
    ATTEMPT_COLUMNS,
    COST_COLUMNS,
    USAGE_COLUMNS,
    Budget,
    Ledger,
    Progress,
)

ROWS_AT_ONCE = 10_000


class AnnotationResult:
    """What a run came to.

    ``frame`` is the input with the answer columns added, one row for each input row in input
    order. ``usage`` has a row for each model call, ``attempts`` for each execution of a row,
    ``cost`` for each model; money in USD, null where unknown. They are read from the ledger when
    they are first asked for. ``counts`` are the rows by status, ``progress`` the run's totals,
    ``budget`` what it may cost and did.
    """

    def __init__(
        self,
        *,
        run_id: str,
        progress: Progress,
        budget: Budget,
        ledger_url: str,
        source: pd.DataFrame,
        schema: Mapping[str, Any] | None,
    ) -> None:
        self.run_id = run_id
        self.progress = progress
        self.budget = budget
        self.counts = {name: getattr(progress, name) for name in ("open", "completed", "failed", "skipped")}
        self._ledger_url = ledger_url
        self._source = source
        self._schema = schema

    def __getstate__(self) -> dict[str, Any]:
        """All frames, and not the ledger's address, which can hold a password."""
        _ = self.frame, self.usage, self.attempts, self.cost
        return self.__dict__ | {"_ledger_url": "", "_source": pd.DataFrame()}

    def parts(self) -> Iterator[pd.DataFrame]:
        """The frame in parts of some thousand rows, one at least, each read as it is asked for."""
        with Ledger.open(self._ledger_url) as ledger:
            yield from output_parts(ledger, self.run_id, self._source, self._schema)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The input and what became of each row."""
        return pd.concat(list(self.parts()))

    @cached_property
    def usage(self) -> pd.DataFrame:
        """Each model call and what it cost."""
        with Ledger.open(self._ledger_url) as ledger:
            return money_frame(ledger.results.usage(self.run_id), USAGE_COLUMNS)

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """Each execution of a row."""
        with Ledger.open(self._ledger_url) as ledger:
            return money_frame(ledger.results.attempts(self.run_id), ATTEMPT_COLUMNS)

    @cached_property
    def cost(self) -> pd.DataFrame:
        """What each model cost."""
        with Ledger.open(self._ledger_url) as ledger:
            return money_frame(ledger.results.cost(self.run_id), COST_COLUMNS)


def result_of(
    ledger: Ledger, run_id: str, source: pd.DataFrame, schema: Mapping[str, Any] | None
) -> AnnotationResult:
    """The result of a run over ``source`` as the ledger has it, whether it has ended or not."""
    return AnnotationResult(
        run_id=run_id,
        progress=ledger.runs.progress(run_id),
        budget=ledger.budgets.get(run_id),
        ledger_url=ledger.url,
        source=source,
        schema=schema,
    )


def output_parts(
    ledger: Ledger, run_id: str, source: pd.DataFrame, schema: Mapping[str, Any] | None
) -> Iterator[pd.DataFrame]:
    """OUTPUT of a run over ``source``, some thousand rows at a time."""
    for start in range(0, max(1, len(source)), ROWS_AT_ONCE):
        some = cast("pd.DataFrame", source.iloc[start : start + ROWS_AT_ONCE])
        span = range(start, start + ROWS_AT_ONCE)
        yield output_frame(some, ledger.results.outcomes(run_id, span), schema=schema)


def money_frame(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Ledger records as a frame, pico-dollars as USD; without records its columns alone."""
    frame = pd.DataFrame(records, columns=pd.Index(columns))
    for name in [column for column in columns if column.endswith("_pico")]:
        pico = list_in(cast("Any", frame[name]).tolist())
        usd = pd.array([pico_to_usd(value) for value in pico], dtype="Float64")
        frame[name.removesuffix("_pico") + "_usd"] = usd
        frame = frame.drop(columns=name)
    return frame
