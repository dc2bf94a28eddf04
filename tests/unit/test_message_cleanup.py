"""Messages of providers and libraries as the command line prints them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.outcomes.message_cleanup import LIMIT, one_line, presentable

HTML = "<!DOCTYPE html><html><head><title>502\nBad Gateway</title></head>" + "<p>edge</p>" * 400 + "</html>"
SQL = (
    "(sqlite3.OperationalError) database is locked\n[SQL: INSERT INTO rows VALUES (?)]\n[parameters: (1,)]\n"
    "(Background on this error at: https://sqlalche.me/e/20/e3q8)"
)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("HTTP 429: slow down", "HTTP 429: slow down"),
        ("two\n  lines", "two lines"),
        ("", "(no message)"),
        (
            f"HTTP 502: {HTML}",
            f'HTTP 502: HTML page "502 Bad Gateway" instead of an answer ({len(HTML):,} characters)',
        ),
        ('HTTP 400: {"error": {"message": "no such model", "code": 7}}', "HTTP 400: no such model"),
        ("use [1] or {}", "use [1] or {}"),
        ("RuntimeError: Failed to reach API", "RuntimeError: Failed to reach API"),
        (SQL, "database is locked"),
    ],
)
def test_a_message_is_one_readable_line(message: str, shown: str) -> None:
    assert presentable(message) == shown


def test_a_long_message_is_cut_at_a_word_with_a_sign() -> None:
    text = presentable("upgrade your plan " * 100)
    assert text.endswith(("upgrade…", "your…", "plan…"))
    assert len(text) <= LIMIT


@given(st.text())
def test_a_message_is_never_long_nor_of_several_lines(message: str) -> None:
    assert len(presentable(message)) <= LIMIT
    assert len(presentable(message).splitlines()) == 1
    assert len(one_line(message).splitlines()) <= 1
