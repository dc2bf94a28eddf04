"""Texts for people: what a message repeats of a prompt."""

from __future__ import annotations

import pytest

from opencode_tasks.domain.text import MIN_QUOTE, without_quotes

PROMPT = "My name is Ann Miller and I live in Berlin, Germany.\nCall me back!"


@pytest.mark.parametrize(
    ("message", "without"),
    [
        ("blocked: 'I live in Berlin, Germany.' is personal", "blocked: '[prompt]' is personal"),
        ("blocked: I live in Berlin", "blocked: I live in Berlin"),
        (PROMPT, "[prompt]"),
        (f"<{PROMPT[:30]}> and <{PROMPT[20:50]}>", "<[prompt]> and <[prompt]>"),
        (PROMPT[:MIN_QUOTE], "[prompt]"),
        (PROMPT[: MIN_QUOTE - 1], PROMPT[: MIN_QUOTE - 1]),
        (f"x{PROMPT[5 : 5 + MIN_QUOTE]}x", "x[prompt]x"),
        ("", ""),
        ("HTTP 400: bad request", "HTTP 400: bad request"),
    ],
)
def test_what_a_message_repeats_of_a_prompt_goes(message: str, without: str) -> None:
    assert without_quotes(message, PROMPT, "[prompt]") == without


@pytest.mark.parametrize("at", range(30))
def test_a_part_is_found_wherever_it_begins(at: int) -> None:
    message = "." * at + PROMPT[10 : 10 + MIN_QUOTE] + "."
    assert without_quotes(message, PROMPT, "[prompt]") == "." * at + "[prompt]."
