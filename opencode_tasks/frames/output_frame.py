"""OUTPUT: the input's columns, and beside them the outcome of each row."""

# pandas has no complete type information.
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
    """Return the input with OUTPUT's columns (``frames.columns``), in input order and with its index.

    ``outcomes`` has one mapping per row, in input order. Its keys are the names of these columns, except
    that ``cost_pico`` is the cost and ``structured`` the JSON object of the answer (None without one), from
    which the columns of the schema's fields are made. A missing key is null. The dtypes do not depend on
    the number of rows. A schema column whose values do not have the type that the schema names has dtype
    object. Raises ValueError if the number of outcomes is not the number of rows.
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
