from __future__ import annotations

from opencode_tasks.frames.columns import OUTPUT, output_columns


def test_fields_come_after_the_response_with_their_types() -> None:
    schema = {
        "properties": {
            "s": {"type": "string"},
            "i": {"type": ["null", "integer"]},
            "n": {"type": "number"},
            "b": {"type": "boolean"},
            "l": {"type": "array"},
            "m": {"type": ["string", "integer"]},
            "e": {"enum": [1]},
            "t": True,
        }
    }
    columns = output_columns(schema)
    assert [column.name for column in columns[:10]] == ["response", *"sinblmet", "status"]
    assert [column.dtype for column in columns[1:9]] == [
        "string", "Int64", "Float64", "boolean", "object", "object", "Int64", "object",
    ]  # fmt: skip
    assert output_columns(None) == OUTPUT


def test_each_of_several_models_has_its_columns_side_by_side() -> None:
    schema = {"type": "object", "properties": {"label": {"enum": ["a"]}, "n": {"type": "integer"}}}
    columns = output_columns(schema, "ai_", has_votes=True, models=("p/x", "q/y#high"))
    assert [(column.name, column.dtype) for column in columns if column.model is not None] == [
        ("ai_label@p/x", "string"),
        ("ai_label@q/y#high", "string"),
        ("ai_n@p/x", "Int64"),
        ("ai_n@q/y#high", "Int64"),
        ("ai_status@p/x", "string"),
        ("ai_status@q/y#high", "string"),
        ("ai_cost_usd@p/x", "float64"),
        ("ai_cost_usd@q/y#high", "float64"),
    ]
    texts = output_columns(None, models=("p/x",))
    assert [column.name for column in texts[-3:]] == ["response@p/x", "status@p/x", "cost_usd@p/x"]
