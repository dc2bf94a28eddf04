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
    ],
)
def test_reasoning_in_the_text_is_no_answer(text: str, reasoning: str, answer: str) -> None:
    assert split_reasoning(text) == (reasoning, answer)


def test_a_long_text_of_tags() -> None:
    assert split_reasoning("<think>" * 50_000)[1] == ""
    assert split_reasoning("<think></think>" * 50_000)[1] == ""
