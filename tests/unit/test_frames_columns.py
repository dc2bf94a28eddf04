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
