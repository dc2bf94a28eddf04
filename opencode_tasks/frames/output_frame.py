"""OUTPUT: the input's columns, and beside them the outcome of each row."""

# pandas has no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.frames.columns import Column, Dtype

# From this number on, a float does not hold every integer.
_EXACT_INTEGERS = 2**53
OF_MODELS = "of_models"
"""Key of the outcomes of several models in the outcome of a row."""


def output_frame(
    frame: pd.DataFrame,
    outcomes: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
) -> pd.DataFrame:
    """Return the input with the columns that OUTPUT adds, in input order and with its index.

    ``outcomes`` has one mapping per row, in input order. Its keys are the names of the ledger's columns:
    ``cost_pico`` is the cost and ``structured`` the JSON value of the answer (None without one), from which
    the columns of the schema's fields are made. ``of_models`` has such a mapping for each of several models,
    by its name. A missing key is null. The dtypes do not depend on the number of rows. A column whose values
    do not have the type that the schema names, or that a float cannot hold exactly, has dtype object. Raises
    ValueError if the number of outcomes is not the number of rows.
    """
    if len(outcomes) != len(frame):
        raise ValueError(f"{len(outcomes)} outcomes for {len(frame)} rows")
    added = {
        column.name: _series([_value(outcome, column) for outcome in outcomes], column.dtype)
        for column in columns
    }
    beside = pd.DataFrame(added)
    beside.index = frame.index
    return pd.concat([frame, beside], axis="columns")


def _value(outcome: Mapping[str, Any], column: Column) -> Any:
    if column.model is not None:
        outcome = mapping_in(mapping_in(outcome.get(OF_MODELS)).get(column.model))
    value = outcome.get(column.ledger_name)
    if column.field is not None:
        return mapping_in(value).get(column.field)
    return pico_to_usd(value) if column.ledger_name.endswith("_pico") else value


def _series(values: list[Any], dtype: Dtype) -> pd.Series:
    if dtype == "Float64" and any(
        isinstance(value, int) and abs(value) > _EXACT_INTEGERS for value in values
    ):
        dtype = "object"
    try:
        return pd.Series(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError):
        return pd.Series(values, dtype=object)
