from __future__ import annotations

import json
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
from opencode_tasks.domain.answer_shape import shape_of

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
        '{"label": "pos"} as [it has "\\d" in it]',
        '{"label": "bad"}, {"label": "pos"}, {"name": "worse"}',
        'Form: {"label": 1}. {"label": "pos"}\n\n\\frac{label}{2}, {label | x > 0}, {...}, [label: 1]',
        f'{{"label": "pos"}} fits {json.dumps(SCHEMA)}',
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
        ('{"label": True}', "$.label: True is not one of"),
        ('{"label": true or True}', "broken at character"),
        ('{"label": "p\\os"}', "the unknown escape \\o at character 13; write \\\\ for a backslash"),
        ('{"label": "pos", "\\d{3}": 1}', "the unknown escape \\d at character 19"),
        ("{'label': 'C:\\Windows',}", "the unknown escape \\W"),
        ("{'label': 'pos', /* \\d */ 'a': \"\\x41\"}", "the unknown escape \\x"),
        ('{"label": "po\\\ns"}', "the unknown escape \\ at character 14"),
        ('{"label": "p\\os", "a": "' + "x" * 5_000 + '"}', "the unknown escape \\o"),
        ('{"label": "neg"}, better: {"label": "p\\os"}', "the unknown escape \\o"),
        ('{"label": "neg"}, better: {"label": "pos", "label": "neg"}', "occurs twice"),
        ('{"label": "neg"}, better: {"label": "p\\u0000"}', "a NUL character"),
        ('[{"label": "\\o"}]', "the JSON array has the unknown escape \\o"),
    ],
)
def test_json_with_another_meaning_is_refused(text: str, problem: str) -> None:
    parsed = parse_structured(text, SCHEMA | {"properties": {"label": {"enum": ["pos", "neg", "p\0"]}}})
    assert isinstance(parsed, InvalidAnswer)
    assert problem in parsed.problems[0]


@pytest.mark.parametrize(
    "last",
    [
        '{"label": "pos", "reason": "he said "great" twice"}',
        '{"label": "pos" "score": 1}',
        '{"label": "pos", "score": 90%}',
        '{"reason": "5" screen", "label": "pos"}',
        "{'label': 'a \"quoted', 'score': 1}",
        "{'label': 'p}os'}",
        "{\u201clabel\u201d: \u201cpos\u201d}",
        '{"label": pos}',
        '{"label": "Pos"}',
        '{"Label": "pos"}',
        '{"answer": {"label": "pos"}}',
        '[{"label": "pos"}]',
        '{"label": "pos", "more": 1}',
        '{"label": "pos", ...}',
    ],
)
@pytest.mark.parametrize("end", ["", "\nSee [1] and {x}."])
def test_an_earlier_object_is_not_used_instead_of_a_broken_one(last: str, end: str) -> None:
    parsed = parse_structured(f'Draft: {{"label": "neg"}}\nOn second thought:\n{last}{end}', SCHEMA)
    assert isinstance(parsed, InvalidAnswer)
    assert "contains no JSON" not in parsed.problems[0]


@pytest.mark.parametrize(
    ("items", "last"),
    [
        ({"type": "string"}, '["a", "b" "c"]'),
        ({"enum": ["a", "b"]}, '["A"]'),
        ({"type": "integer"}, "[4, 7"),
        ({"type": "integer", "maximum": 9}, "[4, 70]"),
        ({"type": "object"}, '[{"a": b}]'),
        ({"type": "boolean"}, "[true, yes]"),
        ({}, '["a", b]'),
    ],
)
def test_an_earlier_array_is_not_used_instead_of_a_broken_one(items: dict[str, Any], last: str) -> None:
    schema = {"type": "array", "items": items}
    draft = {"string": ["a"], "integer": [4], "object": [{}], "boolean": [True]}.get(
        str(items.get("type")), ["a"]
    )
    assert parse_structured(f"{json.dumps(draft)} [x] {{y}}", schema) == ValidAnswer(value=draft)
    parsed = parse_structured(f"Draft: {json.dumps(draft)}\nFinal: {last}", schema)
    assert isinstance(parsed, InvalidAnswer)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[4, 7]\n\nSource: [1]", [4, 7]),
        ("[1] says so, as does [2].\n\n  [4, 7]  \n", [4, 7]),
        ("```json\n[4, 7]\n```\n[1] http://x", [4, 7]),
        ("```\n[4]\n```\nNo:\n```json\n[4, 7]\n```\nSources:\n[1]", [4, 7]),
        ("The items are [4, 7].", [4, 7]),
        ("[4, 7], so [4,7]", [4, 7]),
        ("The two items are [4, 7] (see [2]).", None),
        ("Answer: [4, 7]\n\nSource: [1]", None),
        ("[4, 7]\n\nSources:\n[1]\n[2]", None),
        ("Answer: [true]\n\nSource: [1]", None),
    ],
)
def test_a_citation_is_not_the_answer(text: str, value: list[int] | None) -> None:
    parsed = parse_structured(text, {"type": "array", "items": {"type": ["integer", "boolean"]}})
    problems = ("the answer contains several different values; write only one",)
    assert parsed == (InvalidAnswer(problems=problems) if value is None else ValidAnswer(value=value))


@pytest.mark.parametrize(
    "part", ["[{}] http://x/{}", '["Smith {}, p. {}"]', "\\frac{{x_{}}}{{{}}}", "{{{}}}"]
)
def test_citations_and_formulas_after_an_object_are_not_counted(part: str) -> None:
    ends = " ".join(part.format(number, number) for number in range(1, 200))
    assert parse_structured(f'{{"label": "pos"}}\n\nSources: {ends}', SCHEMA) == ValidAnswer(
        value={"label": "pos"}
    )
    assert isinstance(parse_structured(ends, SCHEMA), InvalidAnswer)


@pytest.mark.parametrize(
    "part",
    [
        "{ ",
        '{"',
        "[",
        '{"a": [',
        "{x} ",
        '"',
        "'{'",
        '{"a":1}',
        "/*",
        "{/*}",
        "'",
        "{'}",
        "{'label'",
        "{label:",
        "{,",
    ],
)
def test_a_long_text_of_brackets_is_read_in_a_linear_time(part: str) -> None:
    parsed = parse_structured(part * 50_000, SCHEMA)
    assert isinstance(parsed, InvalidAnswer)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'{"a": "\\d \" \/ \b\f\n\r\t \u00e9"}', '\\d " / \b\f\n\r\t é'),
        (r"""{"a": "it\'s"}""", "it's"),
        (r"""{'a': 'it\'s \\d'}""", r"it's \d"),
        (r"""{"a": "x", /* \d */}""", "x"),
        ('{"a": "x", // it\'s \\d\n}', "x"),
    ],
)
def test_escapes_with_one_meaning_are_read(text: str, value: str) -> None:
    assert parse_structured(text, ANYTHING) == ValidAnswer(value={"a": value})


def test_words_of_python_are_read() -> None:
    text = "{'a': 'True, None', 'b': True, 'c': [False,None], 'd': {'None': None } /* None, */}"
    value = {"a": "True, None", "b": True, "c": [False, None], "d": {"None": None}}
    assert parse_structured(f"Draft: {{'a': 'x'}}. Final: {text}", ANYTHING) == ValidAnswer(value=value)
    optional = {"anyOf": [ANYTHING, {"type": "null"}]}
    assert parse_structured("None", optional) == ValidAnswer(value=None)


def test_line_breaks_in_strings_are_kept() -> None:
    assert parse_structured('{"a": "x\ny\t"}', ANYTHING) == ValidAnswer(value={"a": "x\ny\t"})


def test_values_stay_exact() -> None:
    text = '{"big": 123456789012345678901234567890, "text": "é \\" ``` }"}'
    parsed = parse_structured(text, ANYTHING)
    assert parsed == ValidAnswer(value={"big": 123456789012345678901234567890, "text": 'é " ``` }'})


@pytest.mark.parametrize(
    ("pattern", "fitting", "other"),
    [
        (r"^\p{Lu}\p{L}+$", "Élan", "élan"),
        (r"(?<year>\d{4})-\d\d", "in 2026-01", "in 26-01"),
        ("^a", "abc", "cba"),
    ],
)
def test_a_pattern_may_be_one_of_other_languages(pattern: str, fitting: str, other: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}}
    assert check_schema(schema) == []
    assert parse_structured(json.dumps({"a": fitting}), schema) == ValidAnswer(value={"a": fitting})
    assert parse_structured(json.dumps({"a": other}), schema) == InvalidAnswer(
        problems=(f"$.a: {other!r} does not match {pattern!r}",)
    )


def test_a_search_for_a_pattern_ends() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a|aa)+$"}}}
    assert parse_structured(json.dumps({"a": "a" * 64 + "b"}), schema) == InvalidAnswer(
        problems=("$.a: the search for the pattern '^(a|aa)+$' takes more than 1 s",)
    )


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ([], "an array"),
        ({"type": "strange"}, "not a JSON Schema"),
        ({"type": "object", "properties": {"a": {"pattern": "("}}}, "not a JSON Schema"),
        ({"type": "object", "patternProperties": {r"^\p{L}": {}}}, "patternProperties cannot be used"),
        ({}, "top level"),
        ({"sentiment": "string"}, "top level"),
        ({"anyOf": [{"type": "string"}, {}]}, "top level"),
        ({"type": "null"}, "top level"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "top level"),
        ({"$ref": "#"}, "top level"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"status": {}}}}}, "'status'"),
        ({"type": "object", "properties": {"cost_usd": {}}}, "'cost_usd'"),
        ({"type": "object", "properties": {"row_id": {}}}, "'row_id'"),
        ({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}, "has no target"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}, "has no target"),
        ({"type": "object", "properties": {"a": {"$dynamicRef": "#none"}}}, "'#none' has no target"),
        ({"type": "object", "properties": {"a": {"$dynamicRef": "http://127.0.0.1:9/x"}}}, "has no target"),
        ({"type": "object", "properties": {"a": {"$ref": "http://["}}}, "has no target"),
        ({"type": "object", "properties": {"enum": {"$ref": "#/none"}}}, "'#/none' has no target"),
        ({"type": "object", "$defs": {"default": {"$dynamicRef": "#none"}}}, "'#none' has no target"),
        (
            {"type": "object", "properties": {"a": {"type": "string", "nullable": True}}},
            '$.properties.a: nullable is no keyword of JSON Schema; write "type": ["string", "null"]',
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/components/schemas/A", "nullable": True}},
                "components": {"schemas": {"A": {"type": "object"}}},
            },
            'write "anyOf": [{…}, {"type": "null"}]',
        ),
        ({"type": "object", "require": ["a"]}, "$: 'require' has no effect; write 'required'"),
        ({"type": "object", "properites": {}}, "write 'properties'"),
        ({"type": "array", "items": {"type": "string", "maxlength": 3}}, "write 'maxLength'"),
        ({"type": "array", "items": {"anyOf": [{"enums": ["a"]}]}}, "write 'enum'"),
        ({"$ref": "#/x/A", "x": {"A": {"type": "object", "require": []}}}, "write 'required'"),
        ({"type": "object", "dependencies": {"a": ["b"]}}, "'dependencies' has no effect in this draft"),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "type": "array",
                "prefixItems": [{"type": "string"}],
            },
            "'prefixItems' has no effect in this draft",
        ),
        ({"type": "object", "allOf": [{"$ref": "#"}]}, "refers to itself for the same value"),
        (
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/A"}},
                "$defs": {
                    "A": {"type": "object", "anyOf": [{"type": "null"}, {"not": {"$ref": "#/$defs/A"}}]}
                },
            },
            "refers to itself for the same value",
        ),
        (
            {"type": "object", "title": "x", "properties": {"a": {"$ref": "#/title"}}},
            "'#/title' is no schema",
        ),
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
        {
            "type": "object",
            "properties": {"a": {"const": {"$ref": "x"}}, "default": {"default": {"$ref": "x"}}},
        },
        {"type": "object", "$dynamicAnchor": "node", "properties": {"a": {"$dynamicRef": "#node"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/any"}}, "$defs": {"any": True}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "definitions": {}},
        {
            "type": "object",
            "properties": {
                "require": {"type": ["string", "null"], "nullable": True, "example": "x", "note": "x"},
                "next": {"$ref": "#"},
                "b": {
                    "type": "integer",
                    "nullable": False,
                    "x-type": 1,
                    "format": "int32",
                    "deprecated": True,
                },
                "c": {
                    "const": {"require": 1},
                    "default": {"properites": 1},
                    "enumNames": [],
                    "propertyOrder": 1,
                },
            },
            "discriminator": {"propertyName": "b"},
            "definitions": {"A": {"type": "string"}, "B": {"allOf": [{"$ref": "#/definitions/A"}] * 2}},
        },
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "type": "object",
            "properties": {"a": {"type": "number", "minimum": 0, "exclusiveMinimum": True}},
            "dependencies": {"a": ["b"]},
        },
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
    assert "- $.a: wrong" in repair_prompt(["$.a: wrong", "b"], SCHEMA)


# As the exporters of msgspec, zod and pydantic write the schema of one object with a label and a score.
FIELDS: dict[str, Any] = {"label": {"type": "string", "enum": ["pos", "neg"]}, "score": {"type": "integer"}}
MSGSPEC: dict[str, Any] = {
    "$ref": "#/$defs/Review",
    "$defs": {"Review": {"title": "Review", "type": "object", "properties": FIELDS, "required": ["label"]}},
}
ZOD_4: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": FIELDS,
    "required": ["label"],
    "additionalProperties": False,
}
ZOD_3: dict[str, Any] = {
    "$ref": "#/definitions/Review",
    "definitions": {"Review": {"type": "object", "properties": FIELDS, "additionalProperties": False}},
    "$schema": "http://json-schema.org/draft-07/schema#",
}
INHERITED: dict[str, Any] = {
    "allOf": [{"$ref": "#/$defs/Base"}, {"properties": {"score": {"$ref": "#/$defs/Score"}}}],
    "$defs": {
        "Base": {
            "type": ["object"],
            "properties": {"label": {"$ref": "#/$defs/Label"}},
            "required": ["label"],
        },
        "Label": {"enum": ["pos", "neg"]},
        "Score": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
}
UNION: dict[str, Any] = {
    "anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}, {"type": "null"}],
    "$defs": {
        "A": {"type": "object", "properties": {"label": {"const": "pos"}}, "required": ["label"]},
        "B": {"type": "object", "properties": {"label": {"const": "neg"}, "score": {"type": "integer"}}},
    },
}
IDENTIFIED: dict[str, Any] = {"$id": "https://e/x", "$ref": "#/$defs/R", "$defs": {"R": ZOD_4}}


@pytest.mark.parametrize("schema", [MSGSPEC, ZOD_4, ZOD_3, INHERITED, UNION, IDENTIFIED])
def test_schemas_of_other_libraries(schema: dict[str, Any]) -> None:
    assert check_schema(schema) == []
    assert shape_of(schema).fields == {
        "label": {"string"}, "score": {"integer", "null"} if schema is INHERITED else {"integer"},
    }  # fmt: skip
    answer = {"label": "pos", "score": 2**53 + 1}
    assert parse_structured(f"Sure: {json.dumps(answer)}", schema) == ValidAnswer(value=answer)
    assert isinstance(parse_structured('{"label": "bad"}', schema), InvalidAnswer)
    assert isinstance(parse_structured("[]", schema), InvalidAnswer)
    assert "JSON object" in schema_instruction(schema)


def test_a_type_that_contains_itself_has_fields() -> None:
    tree = {
        "$ref": "#/$defs/T",
        "$defs": {
            "T": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/T"}, {"type": "null"}]}},
            }
        },
    }
    assert check_schema(tree) == []
    assert shape_of(tree).fields == {"next": {"object", "null"}}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "integer"}, " 9007199254740993\n", 9007199254740993),
        ({"type": "integer"}, "```json\n42\n```", 42),
        ({"type": ["integer", "null"]}, "null", None),
        ({"type": "boolean"}, "false", False),
        ({"type": "array", "items": {"type": "string"}}, 'Tags: ["a", "b"].', ["a", "b"]),
        ({"type": "array"}, "[]", []),
        ({"type": "array"}, "```json\n[1]\n```", [1]),
        ({"$ref": "#/$defs/L", "$defs": {"L": {"type": "array"}}}, '[{"a": 1}]', [{"a": 1}]),
        ({"type": "string"}, "Paris", "Paris"),
        ({"type": "string"}, '"Paris"', "Paris"),
        ({"type": "string"}, '"[Insert name] hello"', "[Insert name] hello"),
        ({"type": "string"}, '"{x} \\"y\\" {z"', '{x} "y" {z'),
        ({"type": "string"}, '"{\\"a\\": 1}"', '{"a": 1}'),
        ({"type": "string"}, '```\n"[x]"\n```', "[x]"),
        ({"type": ["string", "array"]}, '"[1]"', [1]),
        ({"type": ["string", "array"]}, '"[x]"', "[x]"),
        ({"type": "array"}, '"[1]"', [1]),
        ({"type": "string", "maxLength": 9}, "[1] {a}", "[1] {a}"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "7", 7),
        ({"enum": [1, 2, None]}, "2", 2),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "FALSE", False),
        ({"type": "boolean"}, "**true**", True),
        ({"type": "boolean"}, "true.", True),
        ({"type": "boolean"}, "```\nFalse\n```", False),
        ({"enum": ["a", True]}, "`True`", True),
        ({"type": ["integer", "null"]}, "None", None),
        ({"type": ["integer", "null"]}, "Null.", None),
        ({"type": "array"}, "[True, 'None', None]", [True, "None", None]),
    ],
)  # fmt: skip
def test_answers_that_are_no_object(schema: dict[str, Any], text: str, value: Any) -> None:
    assert check_schema(schema) == []
    assert parse_structured(text, schema) == ValidAnswer(value=value)
    assert schema_columns(schema) == []
    assert "one JSON value" in schema_instruction(schema)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer"}, "The answer is 42."),
        ({"type": "integer"}, "4.5"),
        ({"type": "boolean"}, "not true"),
        ({"type": "boolean"}, "yes"),
        ({"type": "boolean"}, "None"),
        ({"type": "integer"}, "True"),
        ({"type": "array", "items": {"type": "string"}}, '{"tags": ["a"]}'),
        ({"type": "array"}, '["a", '),
        ({"type": "string", "maxLength": 3}, "Paris"),
        ({"type": "string"}, "a\0b"),
        ({"type": "string"}, "a\ud800"),
        ({"enum": [1, 2]}, "3"),
    ],
)
def test_other_values_are_not_guessed(schema: dict[str, Any], text: str) -> None:
    assert isinstance(parse_structured(text, schema), InvalidAnswer)


CHOICES: dict[str, Any] = {"type": "string", "enum": ["positive", "negative", "very positive", "N/A", "C++"]}


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("positive", "positive"),
        (" Positive.\n", "positive"),
        ('"NEGATIVE"', "negative"),
        ("**positive**", "positive"),
        ("`n/a`", "N/A"),
        ("c++", "C++"),
        ("very\n positive", "very positive"),
        ("```\npositive\n```", "positive"),
        ("Label: positive", "positive"),
        ("Final answer: **Very positive**.", "very positive"),
        ("It is negative.", "negative"),
        ("The sentiment is: positive", "positive"),
        ("The sentiment of this review is 'positive'.", "positive"),
        ("This is a positive", "positive"),
        ("**Label:** positive", "positive"),
        ("**Label**: **positive**", "positive"),
        ("Label:positive", "positive"),
        ("Label : positive", "positive"),
        ("答案：positive", "positive"),  # noqa: RUF001
        ("The final answer is positive", "positive"),
        ("The correct label of this review is: *positive*", "positive"),
        ("\ufeffPositive", "positive"),
        ("positive\u200b", "positive"),
        ("My final answer: positive", "positive"),
        ("Sentiment label: positive", "positive"),
        ("情感是：positive", "positive"),  # noqa: RUF001
        ("答案是positive", "positive"),
        ("Réponse : positive", "positive"),
        ("Ответ: positive", "positive"),
        ("Antwort: positive", "positive"),
        ("positive。", "positive"),
        ("「positive」", "positive"),
        ("„positive“", "positive"),
        ("《positive》。", "positive"),
        ("- positive", "positive"),
        ("> **positive**", "positive"),
        ("# Positive", "positive"),
        ("(positive)", "positive"),
        ("It's positive.", "positive"),
        ("It\u2019s a positive", "positive"),
        ("positive</s>", "positive"),
        ("Positive.<|im_end|>\n<|endoftext|>", "positive"),
        ("<answer>positive</answer>", "positive"),
        ("<sentiment>\n positive\n</sentiment>", "positive"),
        ("\\boxed{positive}", "positive"),
        ("The final answer is $\\boxed{\\text{positive}}$.", "positive"),
        ("\u200epositive", "positive"),
    ],
)
def test_a_label_is_read(text: str, label: str) -> None:
    assert parse_structured(text, CHOICES) == ValidAnswer(value=label)


@pytest.mark.parametrize(
    "text",
    [
        "", "***", "not positive", "It is not positive.", "positive or negative", "positive, not negative",
        "I doubt that it is positive.", "positively", "The only thing that is positive",
        "positive\n\nBecause it works.",
        "The label is neither positive nor negative", '{"label": "positive"}', '["positive"]', "pos",
        "positive negative",
        "It could be positive.", "Sentiment: not positive", "a: b: positive", "unpositive",
        "Negative: positive", "Not: positive", "Not negative: positive", "Wrong answer: positive",
        "Unlikely: positive", "The opposite is positive", "The opposite of this review is positive",
        "Very positive: negative", "**Negative:** positive", "Not:positive", "NOT : positive",
        "The negative is positive", "This positive is negative", "No: negative", "Never: positive",
        "Positive: positive", "Notes: positive", "Very: positive", "Avoid: positive", "Probably: positive",
        "The mistake is: positive", "Ruled out: positive", "Draft: positive", "The worst is positive",
        "The question is positive", "Confidence: positive", "User: positive", "Example: positive",
        "The answer of the opposite is positive", "Not the answer: positive", "Answer: not positive",
        "(positive) or (negative)", "<wrong>positive</wrong>",
        "<answer>not positive</answer>", "- not positive",
        "\\boxed{positive, negative}", "- positive\n- negative", "It's not positive", "It isn't positive",
        "Nicht: positive", "不是：positive", "The wrong answer is positive", "The only answer is positive",  # noqa: RUF001
    ],
)  # fmt: skip
def test_a_label_is_never_guessed(text: str) -> None:
    parsed = parse_structured(text, CHOICES)
    assert parsed == InvalidAnswer(
        problems=("the answer is not one of the labels positive, negative, very positive, N/A, C++",)
    )


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Yes: no", None), ("No: yes", None), ("yes is no", None), ("The answer is no", "no"),
        ("Decision: no", "no"), ("No: no", None), ("It is a b", None), ("It is b", "b"),
        ("Not: b", "Not: b"),
    ],
)  # fmt: skip
def test_words_before_a_label_that_are_labels(text: str, label: str | None) -> None:
    parsed = parse_structured(text, {"enum": ["yes", "no", "a", "b", "Not: b"]})
    assert (parsed.value if isinstance(parsed, ValidAnswer) else None) == label


@pytest.mark.parametrize(
    ("labels", "text", "label"),
    [
        (["Billing: Refund", "Refund"], "billing: refund", "Billing: Refund"),
        (["Billing: Refund", "Refund"], "Category: refund", "Refund"),
        (["it's", "no"], "it\u2019s", "it's"),
        (["正面", "负面"], "正面。", "正面"),
        (["-1", "1"], "- 1", None),
        (["-1", "1"], "-1.", "-1"),
        (["(a)", "a"], "(A)", "(a)"),
        (["rating", "label"], "Rating: label", None),
    ],
)
def test_a_label_as_it_is_goes_before_a_sentence(labels: list[str], text: str, label: str | None) -> None:
    parsed = parse_structured(text, {"enum": labels})
    assert (parsed.value if isinstance(parsed, ValidAnswer) else None) == label


@pytest.mark.parametrize(
    ("text", "is_read"),
    [("Mail kind: spam", True), ("Kind: spam", True), ("The kind is spam", True), ("Mail: spam", False)],
)
@pytest.mark.parametrize(
    "schema",
    [
        {"title": "MailKind", "enum": ["spam", "ham"]},
        {
            "anyOf": [{"$ref": "#/$defs/K"}, {"type": "null"}],
            "$defs": {"K": {"title": "mail_kind", "enum": ["spam"]}},
        },
    ],
)
def test_the_title_of_a_schema_may_stand_before_a_label(schema: Any, text: str, is_read: bool) -> None:
    assert isinstance(parse_structured(text, schema), ValidAnswer) == is_read


def test_a_label_of_marks_needs_the_exact_text() -> None:
    schema = {"enum": ["*", "a"]}
    assert parse_structured("A", schema) == ValidAnswer(value="a")
    assert parse_structured("*", schema) == ValidAnswer(value="*")
    assert isinstance(parse_structured("***", schema), InvalidAnswer)


def test_labels_that_differ_by_case_need_the_exact_text() -> None:
    schema = {"enum": ["US", "us", "No", "No."]}
    assert [parse_structured(text, schema) for text in ("US", "us", "No", "No.")] == [
        ValidAnswer(value=text) for text in ("US", "us", "No", "No.")
    ]
    assert isinstance(parse_structured("Us", schema), InvalidAnswer)
    assert isinstance(parse_structured("no", schema), InvalidAnswer)


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("listed", "answer"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_both_forms_of_an_accent_are_the_label_of_the_schema(listed: str, answer: str) -> None:
    labels = {"enum": [listed, listed.upper(), "tea"]}
    assert parse_structured(answer, labels) == ValidAnswer(value=listed)
    assert parse_structured(f"It is {answer}.", {"enum": [listed, "tea"]}) == ValidAnswer(value=listed)
    schema = {
        "type": "object",
        "properties": {listed: {"anyOf": [{"const": listed}, {"type": "null"}]}, "all": {"items": labels}},
        "required": [listed],
    }
    text = json.dumps({answer: answer, "all": [answer, "tea"]}, ensure_ascii=False)
    fitting = ValidAnswer(value={listed: listed, "all": [listed, "tea"]})
    assert parse_structured(text, schema) == fitting
    assert parse_structured(json.dumps([answer]), {"type": "array", "items": labels}) == ValidAnswer(
        value=[listed]
    )
    both = {"enum": [COMPOSED, DECOMPOSED]}
    assert parse_structured(answer, both) == ValidAnswer(value=answer)


OPTIONAL: dict[str, Any] = {"anyOf": [{"enum": ["spam", "ham"], "type": "string"}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("schema", "null", "listed"),
    [
        ({"type": "string", "enum": ["spam", "ham"], "title": "Kind"}, "", "spam\nham"),
        (OPTIONAL, ", or with the word null,", "spam\nham"),
        ({"type": ["string", "null"], "enum": ["spam", "ham"]}, "", "spam\nham"),
        (
            {
                "description": "Kind of the mail",
                "oneOf": [
                    {"const": "spam", "description": "nobody asked for it"},
                    {"enum": ["ham", "news"], "description": "wanted"},
                    {"type": "null", "description": "in another language"},
                ],
            },
            ", or with the word null,",
            (
                "spam\nham\nnews\n\nWhat they mean:\nKind of the mail\nspam: nobody asked for it\n"
                "ham, news: wanted\nnull: in another language"
            ),
        ),
        (
            {
                "$ref": "#/$defs/K",
                "$defs": {"K": {"enum": ["spam", "ham"], "description": "Kind of the mail"}},
            },
            "",
            "spam\nham\n\nWhat they mean:\nKind of the mail",
        ),
    ],
)
def test_the_instruction_has_null_and_the_descriptions_of_labels(
    schema: dict[str, Any], null: str, listed: str
) -> None:
    assert schema_instruction(schema) == (
        f"Answer with exactly one of these labels{null} and nothing else, no words around it:\n{listed}"
    )


@pytest.mark.parametrize("text", ["null", "Null.", "**null**", "Label: null"])
def test_null_is_read_as_a_label_is(text: str) -> None:
    assert parse_structured(text, OPTIONAL) == ValidAnswer(value=None)
    assert parse_structured(text, {"enum": ["null", "x", None]}) == ValidAnswer(
        value=None if text == "null" else "null"
    )
    assert isinstance(parse_structured(text, {"type": ["string", "null"], "enum": ["a", "b"]}), InvalidAnswer)


def test_a_repair_request_has_null() -> None:
    parsed = parse_structured("eggs", OPTIONAL)
    assert isinstance(parsed, InvalidAnswer)
    assert parsed.problems == ("the answer is not one of the labels spam, ham, null",)
    assert repair_prompt(parsed.problems, OPTIONAL).endswith("one of these labels, or with the word null.")


def test_the_model_is_told_the_labels() -> None:
    assert schema_instruction(CHOICES).endswith("\npositive\nnegative\nvery positive\nN/A\nC++")
    assert "labels" in repair_prompt(["wrong"], CHOICES)
