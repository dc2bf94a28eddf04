"""OUTPUT as a frame: the columns of INPUT and the outcome of each row."""

# pandas has no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from opencode_tasks.domain.answer_schema import schema_columns
from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.frames.columns import Dtype, output_columns


def output_frame(
    frame: pd.DataFrame, outcomes: Sequence[Mapping[str, Any]], *, schema: Mapping[str, Any] | None
) -> pd.DataFrame:
    """Return the input with the columns of ``frames.columns`` added, in its order and with its index.

    ``outcomes`` has a mapping for each row, in the order of the input. Its keys are the names of the
    added columns, except ``cost_pico`` for the cost and ``structured`` for the fields (the object of the
    answer, or None); a missing key is null. An empty frame has the same column types. A field is a column
    of objects if its values do not fit the type in the schema. Raises ValueError if the number of
    outcomes is not the number of rows.
    """
    if len(outcomes) != len(frame):
        raise ValueError(f"{len(outcomes)} outcomes for {len(frame)} rows")
    fields = set(schema_columns(schema))
    added: dict[str, pd.Series] = {}
    for column in output_columns(schema):
        values = [_value(outcome, column.name, is_field=column.name in fields) for outcome in outcomes]
        added[column.name] = _series(values, column.dtype)
    outcome_frame = pd.DataFrame(added)
    outcome_frame.index = frame.index
    return pd.concat([frame, outcome_frame], axis="columns")


def _value(outcome: Mapping[str, Any], name: str, *, is_field: bool) -> Any:
    if is_field:
        return (outcome.get("structured") or {}).get(name)
    if name == "cost_usd":
        return pico_to_usd(outcome.get("cost_pico"))
    return outcome.get(name)


def _series(values: list[Any], dtype: Dtype) -> pd.Series:
    try:
        return pd.Series(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError):
        return pd.Series(values, dtype=object)
