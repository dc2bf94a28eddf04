# pandas, pyarrow and fsspec have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from opencode_tasks.frames.columns import output_columns
from opencode_tasks.frames.output_frame import output_frame

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "n": {"type": "integer"}, "tags": {"type": "array"}},
}
DONE: dict[str, Any] = {
    "row_id": "x",
    "response": "{}",
    "structured": {"label": "pos", "n": 2.0, "tags": ["a"], "more": 1},
    "status": "completed",
    "attempts": 1,
    "turns": 2,
    "input_tokens": 2**60 + 1,
    "output_tokens": 0,
    "cost_pico": 1_500_000,
    "cost_source": "reported",
    "reused": False,
    "duration_s": 0.5,
}
OPEN: dict[str, Any] = {
    "row_id": "y",
    "structured": None,
    "status": "open",
    "waits_until": datetime(2026, 1, 1, tzinfo=UTC),
    "cost_pico": None,
}


def test_input_keeps_its_columns_order_and_index() -> None:
    frame = pd.DataFrame({"prompt": ["a", "b"], "z": [1, 2]}, index=pd.Index(["same", "same"]))
    output = output_frame(frame, [DONE, OPEN], schema=SCHEMA)
    expected = ["prompt", "z", "response", "label", "n", "tags", "status"]
    assert output.columns.tolist()[:7] == expected
    assert output.index.tolist() == ["same", "same"]
    assert list(frame.columns) == ["prompt", "z"]
    first, second = (output.iloc[position] for position in (0, 1))
    assert (first["label"], first["n"], first["tags"]) == ("pos", 2, ["a"])
    assert (first["input_tokens"], first["output_tokens"]) == (2**60 + 1, 0)
    assert first["cost_usd"] == 1.5e-6
    assert bool(first["reused"]) is False
    assert second["waits_until"] == OPEN["waits_until"]
    assert second[["label", "n", "tags", "response", "input_tokens", "cost_usd", "reused"]].isna().all()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_column_types_do_not_depend_on_rows(count: int) -> None:
    output = output_frame(
        pd.DataFrame({"prompt": ["a"] * count}), [{"row_id": "x"}, OPEN][:count], schema=SCHEMA
    )
    assert {name: str(dtype) for name, dtype in output.dtypes.items() if name != "prompt"} == {
        column.name: column.dtype for column in output_columns(SCHEMA)
    }


def test_value_that_does_not_fit_its_type_is_an_object() -> None:
    outcome = {"structured": {"n": 2**80}}
    output = output_frame(pd.DataFrame({"prompt": ["a"]}), [outcome], schema=SCHEMA)
    assert output["n"].tolist() == [2**80]


def test_missing_outcome_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 outcomes for 2 rows"):
        output_frame(pd.DataFrame({"prompt": ["a", "b"]}), [DONE], schema=None)
