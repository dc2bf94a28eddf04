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
    output = output_frame(frame, [DONE, OPEN], output_columns(SCHEMA))
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
        pd.DataFrame({"prompt": ["a"] * count}), [{"row_id": "x"}, OPEN][:count], output_columns(SCHEMA)
    )
    assert {name: str(dtype) for name, dtype in output.dtypes.items() if name != "prompt"} == {
        column.name: column.dtype for column in output_columns(SCHEMA)
    }


def test_a_model_has_its_answer_in_its_own_columns() -> None:
    columns = output_columns(SCHEMA, models=("p/x", "q/y"))
    outcome = DONE | {"of_models": {"q/y": OPEN | {"structured": {"n": 3}, "cost_pico": 2_000_000}}}
    output = output_frame(pd.DataFrame({"prompt": ["a", "b"]}), [outcome, OPEN], columns)
    assert output["n@q/y"].tolist() == [3, pd.NA]
    assert output["cost_usd@q/y"].iloc[0] == 2e-6
    assert output[["n@p/x", "label@p/x", "status@p/x", "label@q/y"]].isna().to_numpy().all()
    assert output["n"].iloc[0] == 2


def test_value_that_does_not_fit_its_type_is_an_object() -> None:
    outcome = {"structured": {"n": 2**80}}
    output = output_frame(pd.DataFrame({"prompt": ["a"]}), [outcome], output_columns(SCHEMA))
    assert output["n"].tolist() == [2**80]


def cells(kind: str, values: list[Any]) -> tuple[str, list[Any]]:
    """The type and the cells of a column whose answers are of this JSON type."""
    schema = {"type": "object", "properties": {"x": {"type": kind}}}
    frame = pd.DataFrame({"prompt": ["a"] * len(values)})
    outcomes: list[dict[str, Any]] = [{"structured": {"x": value}} for value in values]
    column = output_frame(frame, outcomes, output_columns(schema))["x"]
    scalars = (
        output_frame(
            frame,
            [{"response": "text", "structured": value} for value in values],
            output_columns({"type": kind}),
        )["response"]
        if kind != "object"
        else column
    )
    assert (column.dtype, list(map(repr, column))) == (scalars.dtype, list(map(repr, scalars)))
    return str(column.dtype), column.tolist()


@pytest.mark.parametrize(
    ("kind", "values", "dtype"),
    [
        ("integer", [2**53 + 1, -(2**63), None], "Int64"),
        ("integer", [2**63, None, 7], "object"),
        ("number", [0.5, 2, None], "Float64"),
        ("number", [2**53 + 1, 0.5], "object"),
        ("boolean", [True, None, False], "boolean"),
        ("string", ["007", None, ""], "string"),
        ("array", [[1, "a", None], [], None], "object"),
        ("object", [{"a": [1]}, None], "object"),
    ],
)
def test_values_of_every_type_are_exact(kind: str, values: list[Any], dtype: str) -> None:
    found, column = cells(kind, values)
    assert found == dtype
    assert [None if value is pd.NA else value for value in column] == values


def test_a_prefix_precedes_every_column_that_is_added() -> None:
    frame = pd.DataFrame({"response": ["a", "b"], 0: ["x", "y"]})
    output = output_frame(frame, [DONE, OPEN], output_columns(SCHEMA, "ai_"))
    assert output.columns[:6].tolist() == ["response", 0, "ai_response", "ai_label", "ai_n", "ai_tags"]
    assert all(str(name).startswith("ai_") for name in output.columns[2:])
    assert output["response"].tolist() == ["a", "b"]
    assert output.loc[0, ["ai_label", "ai_status"]].tolist() == ["pos", "completed"]
    assert output.loc[0, "ai_cost_usd"] == 1.5e-6


def test_missing_outcome_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 outcomes for 2 rows"):
        output_frame(pd.DataFrame({"prompt": ["a", "b"]}), [DONE], output_columns(None))
