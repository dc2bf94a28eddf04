from __future__ import annotations

from opencode_tasks.domain.answer_schema import RESERVED_COLUMNS
from opencode_tasks.frames.columns import OUTPUT, output_columns


def test_reserved_names_are_the_columns_and_row_id() -> None:
    assert (*(column.name for column in OUTPUT), "row_id") == RESERVED_COLUMNS


def test_each_column_has_a_meaning() -> None:
    assert all(column.meaning.endswith(".") for column in OUTPUT)


def test_fields_follow_the_response_with_their_types() -> None:
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
        "string", "Int64", "Float64", "boolean", "object", "object", "object", "object",
    ]  # fmt: skip
    assert output_columns(None) == OUTPUT
