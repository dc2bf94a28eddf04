from __future__ import annotations

import json

import pytest

from opencode_tasks.outcomes.cli_output import parse_events, parse_run_error, parse_session_id


def lines(*events: object) -> str:
    return "\n".join(event if isinstance(event, str) else json.dumps(event) for event in events)


@pytest.mark.parametrize(
    ("stdout", "session_id"),
    [
        ("", None),
        ("no session", None),
        (lines({"type": "step_start", "sessionID": "ses_a"}, {"sessionID": "ses_b"}), "ses_a"),
        (lines("ses_text first", {"part": {"sessionID": "ses_b"}}), "ses_b"),
        (lines({"sessionID": None, "part": None}, [1], "warn ses_0aZ."), "ses_0aZ"),
        ('{"sessionID": "ses_cut', "ses_cut"),
        ("uses_nothing", None),
    ],
)
def test_session_id(stdout: str, session_id: str | None) -> None:
    assert parse_session_id(stdout) == session_id


@pytest.mark.parametrize(
    ("stdout", "error"),
    [
        ("", None),
        (lines({"type": "text", "error": {"name": "X", "data": {}}}), None),
        (lines({"type": "error", "error": "text"}, {"type": "error", "error": {"data": {}}}), None),
        (
            lines("junk", {"type": "error", "error": {"name": "A", "data": {"m": 1}, "more": 2}}),
            {"name": "A", "data": {"m": 1}},
        ),
        (
            lines({"type": "error", "error": {"name": "A"}}, {"type": "error", "error": {"name": "B"}}),
            {"name": "A", "data": {}},
        ),
    ],
)
def test_run_error(stdout: str, error: object) -> None:
    assert parse_run_error(stdout) == error


def test_events_are_the_lines_that_are_objects() -> None:
    stdout = '{"a": "x\u2028y"}\r\n[1]\n"s"\n{"cut\n' + '{"a":' * 100_000 + "\n {}"
    assert parse_events(stdout) == [{"a": "x\u2028y"}, {}]
