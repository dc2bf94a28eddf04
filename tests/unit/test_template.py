from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.domain.template import render, template_columns, template_start
from opencode_tasks.errors import InputError


@pytest.mark.parametrize(
    ("template", "row", "text"),
    [
        ("plain", {}, "plain"),
        ("Label: {text}!", {"text": "{x} {{"}, "Label: {x} {{!"),
        ("{{{a}}} {{b}}", {"a": 1}, "{1} {b}"),
        ("{a.b} {c d}", {"a.b": "dotted", "c d": "spaced"}, "dotted spaced"),
        ("{a}{b}{c}", {"a": None, "b": ["é"], "c": 1.5}, '["é"]1.5'),
    ],
)
def test_rendering(template: str, row: dict[str, Any], text: str) -> None:
    assert render(template, row) == text


@pytest.mark.parametrize("template", ["{a.__class__}", "{a[0]}", "{a!r}", "{a:>9}", "{b}"])
def test_nothing_but_a_columns_name_is_reached(template: str) -> None:
    with pytest.raises(InputError, match="no column"):
        render(template, {"a": "value"})


@pytest.mark.parametrize("template", ["{a", "a}", "{}", "{ }", "{a{b}}", "{{a}"])
def test_malformed_templates_are_one_clear_line(template: str) -> None:
    with pytest.raises(InputError) as caught:
        template_columns(template)
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith("--template: ")
    assert "\n" not in caught.value.faults[0]


def test_columns_come_once_in_order() -> None:
    assert template_columns("{b} {a} {b} {{c}}") == ("b", "a")


@given(st.text())
def test_escaped_text_renders_as_itself(text: str) -> None:
    assert render(text.replace("{", "{{").replace("}", "}}"), {}) == text


@pytest.mark.parametrize(
    ("template", "start"),
    [
        ("Is {{this}} good? {text} End.", "Is {this} good? "),
        ("{text} good?", ""),
        ("no column", ""),
        ("broken } {text}", ""),
        ("", ""),
    ],
)
def test_the_start_of_a_template_is_that_of_each_prompt(template: str, start: str) -> None:
    assert template_start(template) == start
    if start:
        assert render(template, {"text": "x"}).startswith(start)
