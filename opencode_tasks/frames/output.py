"""OUTPUT: the input's columns, and beside them what became of each row."""

# pandas, pyarrow and fsspec come without types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from opencode_tasks.domain.answer_schema import schema_columns
from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.frames.columns import Column, Dtype, output_columns


def output_frame(
    frame: pd.DataFrame, outcomes: Sequence[Mapping[str, Any]], *, schema: Mapping[str, Any] | None
) -> pd.DataFrame:
    """The input with OUTPUT's columns added (``frames.columns``), in its order and with its index.

    ``outcomes`` has one mapping for each row, in input order, keyed by those columns' names, but
    ``cost_pico`` for the cost and ``structured`` (the answer's object, or None) for the fields;
    a missing key is null. The types are the same for the empty frame. A field whose values do not
    fit the type that its schema names keeps them as objects. ValueError where the numbers differ.
    """
    if len(outcomes) != len(frame):
        raise ValueError(f"{len(outcomes)} outcomes for {len(frame)} rows")
    fields = set(schema_columns(schema))
    added: dict[str, pd.Series] = {}
    for column in output_columns(schema):
        values = [_value(outcome, column, of_answer=column.name in fields) for outcome in outcomes]
        added[column.name] = _series(values, column.dtype)
    beside = pd.DataFrame(added)
    beside.index = frame.index
    return pd.concat([frame, beside], axis="columns")


def _value(outcome: Mapping[str, Any], column: Column, *, of_answer: bool) -> Any:
    if of_answer:
        return (outcome.get("structured") or {}).get(column.name)
    value = outcome.get(column.ledger_name)
    return pico_to_usd(value) if column.ledger_name.endswith("_pico") else value


def _series(values: list[Any], dtype: Dtype) -> pd.Series:
    try:
        return pd.Series(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError):
        return pd.Series(values, dtype=object)
