from __future__ import annotations

from typing import Any

import pytest

from opencode_tasks.domain.answer_schema import (
    InvalidAnswer,
    ValidAnswer,
    check_schema,
    parse_structured,
    repair_prompt,
    schema_columns,
    schema_instruction,
    validate,
)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"label": {"enum": ["pos", "neg"]}, "score": {"type": "number"}},
    "required": ["label"],
    "additionalProperties": False,
}
ANYTHING: dict[str, Any] = {"type": "object"}


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "pos"}',
        ' \n{"label": "pos"} \n',
        'Sure:\n```json\n{"label": "pos"}\n```\nDone.',
        '```\n{"label": "pos"}\n```',
        'Given {x}, I say {"label": "neg"}, no, {"label": "pos"}.',
        'First {"label": "neg"}, but:\n```JSON\n{"label": "pos"}\n```',
        '{"label": "pos"} trailing',
    ],
)
def test_where_an_object_is_found(text: str) -> None:
    assert parse_structured(text, SCHEMA) == ValidAnswer(value={"label": "pos"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no JSON object"),
        ("positive", "no JSON object"),
        ("[1]", "an array"),
        ("null", "null"),
        ('{"label": "pos"', "broken at character"),
        ('{"items": [{"label": "pos"}', "broken at character"),
        ('{"label": "bad"}', "$.label: 'bad' is not one of"),
        ('{"score": 1}', "'label' is a required property"),
        ('{"label": "pos", "score": NaN}', "NaN is not JSON"),
        ('{"label": "pos", "score": 1e999}', "too large"),
        ('{"label": "\\ud800"}', "lone surrogate"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested more than 100 levels"),
        ('{"label": "pos", "a": ' + "[" * 101 + "]" * 101 + "}", "nested more than 100 levels"),
        ('{"label": "pos", "score": ' + "9" * 400 + "}", "more than 308 digits"),
        ('{"label": "pos", "score": ' + "9" * 5_000 + "}", "more than 308 digits"),
    ],
)
def test_what_does_not_fit(text: str, problem: str) -> None:
    parsed = parse_structured(text, SCHEMA)
    assert isinstance(parsed, InvalidAnswer)
    assert problem in parsed.problems[0]


@pytest.mark.parametrize(
    ("number", "divisor", "is_multiple"),
    [
        ("4.02", 0.01, True),
        ("0.3", 0.1, True),
        ("4.025", 0.01, False),
        ("1e2", 0.01, True),
        ("1.5", 0.5, True),
        ("7", 2, False),
        ("9" * 308, 0.01, True),
        ("9" * 308, 2, False),
    ],
)
def test_multiples_are_decimal(number: str, divisor: float, is_multiple: bool) -> None:
    schema = {"type": "object", "properties": {"score": {"type": "number", "multipleOf": divisor}}}
    parsed = parse_structured(f'{{"score": {number}}}', schema)
    assert isinstance(parsed, ValidAnswer) == is_multiple
    if isinstance(parsed, InvalidAnswer):
        assert parsed.problems[0].endswith((f"is not a multiple of {divisor}", "…"))


@pytest.mark.parametrize(
    "text",
    [
        '"{\\"label\\": \\"pos\\"}"',
        '{"label": "pos",}',
        "{'label': 'pos'}",
        '{"label": "pos" /* sure */}',
        '{"label": "pos", "label": "pos"}',
        'See [1] and [2]: {"label": "pos"} [3]',
        '{"label": "pos"} (not {x})',
        ':-{ {"label": "pos"}',
        '[{"label": "neg"}] becomes {"label": "pos"}',
        '{"label": "bad"}, {"label": "pos"}, {"label": "worse"}',
    ],
)
def test_json_with_one_meaning_is_read(text: str) -> None:
    assert parse_structured(text, SCHEMA) == ValidAnswer(value={"label": "pos"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('```json\n[{"label": "pos"}]\n```', "the answer is an array"),
        ('{"label": "pos", "label": "neg"}', "the key 'label' occurs twice with different values"),
        ('{"label": "pos", "score": -Infinity,}', "Infinity is not JSON"),
        ('{"label": "p\\u0000"}', "a NUL character"),
        ('{"label": "neg"}, better: {"label": "po', "broken at character"),
        ('{"label": True}', "broken at character"),
    ],
)
def test_json_with_another_meaning_is_refused(text: str, problem: str) -> None:
    parsed = parse_structured(text, SCHEMA | {"properties": {"label": {"enum": ["pos", "neg", "p\0"]}}})
    assert isinstance(parsed, InvalidAnswer)
    assert problem in parsed.problems[0]


@pytest.mark.parametrize("part", ["{ ", '{"', "[", '{"a": [', "{x} ", '"', "'{'", '{"a":1}'])
def test_a_long_text_of_brackets_is_read_in_a_linear_time(part: str) -> None:
    parsed = parse_structured(part * 50_000, SCHEMA)
    assert isinstance(parsed, InvalidAnswer)


def test_line_breaks_in_strings_are_kept() -> None:
    assert parse_structured('{"a": "x\ny\t"}', ANYTHING) == ValidAnswer(value={"a": "x\ny\t"})


def test_values_stay_exact() -> None:
    text = '{"big": 123456789012345678901234567890, "text": "é \\" ``` }"}'
    parsed = parse_structured(text, ANYTHING)
    assert parsed == ValidAnswer(value={"big": 123456789012345678901234567890, "text": 'é " ``` }'})


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ([], "an array"),
        ({"type": "strange"}, "not a JSON Schema"),
        ({"type": "object", "properties": {"a": {"pattern": "("}}}, "not a JSON Schema"),
        ({"type": "array"}, "top level"),
        ({}, "top level"),
        ({"type": "object", "properties": {"cost_usd": {}}}, "'cost_usd'"),
        ({"type": "object", "properties": {"row_id": {}}}, "'row_id'"),
        ({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}, "has no target"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}, "has no target"),
    ],
)
def test_faults_of_schemas(schema: Any, fault: str) -> None:
    (line,) = check_schema(schema)
    assert fault in line
    assert line.startswith("--schema: ")


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "string"}}},
        {"type": "object", "properties": {"$ref": {"type": "string"}}, "examples": [{"$ref": "x"}]},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "definitions": {}},
        {"type": "object", "properties": {"a": {"$id": "http://e/a", "$ref": "#/x", "x": True}}},
    ],
)
def test_good_schemas(schema: dict[str, Any]) -> None:
    assert check_schema(schema) == []


def test_a_remote_reference_is_not_fetched() -> None:
    (line,) = validate({"a": 1}, {"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}})
    assert "has no target" in line


def test_the_named_draft_decides() -> None:
    old = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}
    assert validate([1], old) != []
    assert validate([1], {"prefixItems": [{"type": "string"}]}) != []
    assert validate([1], {**old, "items": {}, "prefixItems": [{"type": "string"}]}) == []


def test_formats_are_not_enforced_and_many_problems_are_counted() -> None:
    assert validate("x", {"type": "string", "format": "date"}) == []
    lines = validate(["x" * 9000] * 30, {"items": {"type": "number"}})
    assert len(lines) == 21
    assert lines[-1] == "and 10 more"
    assert max(map(len, lines)) < 400


def test_a_schema_that_turns_in_a_circle_is_a_problem_not_a_crash() -> None:
    assert validate({}, {"$ref": "#"}) == ["the schema or the answer is nested too deeply"]


def test_columns_and_words() -> None:
    assert schema_columns(SCHEMA) == ["label", "score"]
    assert schema_columns(None) == schema_columns({}) == []
    assert '"enum":["pos","neg"]' in schema_instruction(SCHEMA)
    assert "- $.a: wrong" in repair_prompt(["$.a: wrong", "b"])
