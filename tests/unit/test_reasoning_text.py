from __future__ import annotations

import pytest

from opencode_tasks.outcomes.reasoning_text import split_reasoning


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("positive", "", "positive"),
        (" positive\n", "", " positive\n"),
        ("<think>\nnegative? no.\n</think>\n\npositive\n", "negative? no.", "positive"),
        ("negative? no.\n</think>\n\npositive", "negative? no.", "positive"),
        ("draft</think>positive", "draft", "positive"),
        ("<think>a</think>x<think>b</think>y", "a\n\nb", "xy"),
        ("<think>a<think>b</think>c</think>d", "a<think>b\n\nc", "d"),
        ("positive\n<think>was it right?</think>", "was it right?", "positive"),
        ("<think></think>\n\npositive", "", "positive"),
        ("<think>never ends", "never ends", ""),
        (" <think>", "", ""),
        ("<think>a</think>", "a", ""),
        ("a line <think> of HTML", "", "a line <think> of HTML"),
        ("`<think>` begins and `</think>` ends it", "", "`<think>` begins and `</think>` ends it"),
        (
            '{"tag": "</think>", "of": "<think>x</think>"}',
            "",
            '{"tag": "</think>", "of": "<think>x</think>"}',
        ),
        ('{"label": "neg"}</think>{"label": "pos"}', '{"label": "neg"}', '{"label": "pos"}'),
        ("think> </ think >", "", "think> </ think >"),
        # A tag inside JSON is text, wherever the JSON stands.
        ('```json\n{"a": "<think>x</think>y"}\n```', "", '```json\n{"a": "<think>x</think>y"}\n```'),
        ('Sure: {"a": "<think>x</think>y"}', "", 'Sure: {"a": "<think>x</think>y"}'),
        ('{"a": "<think>x</think>y",}', "", '{"a": "<think>x</think>y",}'),
        ("{'a': 'x</think>y'} done", "", "{'a': 'x</think>y'} done"),
        ('{"a": "<think>\\d</think>"}', "", '{"a": "<think>\\d</think>"}'),
        ('["</think>", {"a": ["<think>"]}] is it', "", '["</think>", {"a": ["<think>"]}] is it'),
        ('"<think>x</think>" ', "", '"<think>x</think>" '),
        ('<think>{"a": "d"}</think>{"a": "</think>x"}', '{"a": "d"}', '{"a": "</think>x"}'),
        ('as {x} or [0, 1)</think>{"a": "</think>"}', "as {x} or [0, 1)", '{"a": "</think>"}'),
        ('<think>or {"a": "</think>"}?</think>b', 'or {"a": "</think>"}?', "b"),
        ('<think>{"a": "</think>"}', '{"a": "</think>"}', ""),
        ('draft {"a": "x</think>{"a": "y"}', 'draft {"a": "x', '{"a": "y"}'),
        ('{it is "b} </think> {"a": "}"}', '{it is "b}', '{"a": "}"}'),
        ('[see {"a": "<think>x</think>"}]', "", '[see {"a": "<think>x</think>"}]'),
        ('[it has "\\d</think>"]', '[it has "\\d', '"]'),
        # Other tags.
        ("<Think>a</THINK>b", "a", "b"),
        ("<think >a</think\n>b", "a", "b"),
        ("[THINK]a[/THINK]b", "a", "b"),
        ("a[/THINK]b", "a", "b"),
        ("[Think] about it", "", "[Think] about it"),
        ("◁think▷a◁/think▷b", "a", "b"),
        ("a◁/think▷b", "a", "b"),
        ("<seed:think>a</seed:think>b", "a", "b"),
        ("\n<thinking>a</thinking>\nb", "a", "b"),
        ("\ufeff<think>a</think>b", "a", "b"),
        ("\ufeff<thinking>never ends", "never ends", ""),
        ("<thought>a</thought>b", "a", "b"),
        ("<thinking>never ends", "never ends", ""),
        ("<think>a</think><thinking>b</thinking>c", "a\n\nb", "c"),
        ("b <thinking>a</thinking>", "", "b <thinking>a</thinking>"),
        ("a</thought>b", "", "a</thought>b"),
        ("<think>a</thinking>b</think>c", "a</thinking>b", "c"),
        ("<thinking>{'a': 1}</think></thinking>b", "{'a': 1}</think>", "b"),
    ],
)
def test_reasoning_in_the_text_is_no_answer(text: str, reasoning: str, answer: str) -> None:
    assert split_reasoning(text) == (reasoning, answer)


def test_a_long_text_of_tags() -> None:
    assert split_reasoning("<think>" * 50_000)[1] == ""
    assert split_reasoning("<think></think>" * 50_000)[1] == ""
    assert split_reasoning("x<think></think>" * 50_000)[1] == "x" * 50_000
    assert split_reasoning('{"<think>' * 50_000)[1].startswith("{")
    assert split_reasoning('{"a": "</think>"}' * 20_000)[0] == ""
