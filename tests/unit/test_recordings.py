"""Parsers, classification and judgement on what the real opencode said (see recordings/record.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from opencode_tasks.domain.records import Answer, Session
from opencode_tasks.errors import OpenCodeError, RateLimitError, ServerError
from opencode_tasks.opencode.cli_backend import stream_text
from opencode_tasks.outcomes.backend_result import SessionResult, Stopped
from opencode_tasks.outcomes.cli_output import parse_events, parse_run_error, parse_session_id
from opencode_tasks.outcomes.event_stream import EventFold, SessionEvents
from opencode_tasks.outcomes.outcome import read_outcome
from opencode_tasks.outcomes.session_messages import session_of

FOLDERS = sorted(Path(__file__).parent.parent.joinpath("recordings").glob("opencode-*"))
# The moments that record.py writes in the place of real ones.
MOMENT = datetime.fromtimestamp(1_700_000_000, UTC)
NEXT = MOMENT + timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a recording must come to: an answer's text, or an error's type and words.

    ``steps`` are (input, cache read, output, reasoning) tokens, ``child_steps`` those of children.
    """

    text: str = ""
    error: str = ""
    words: str = ""
    wait_s: float | None = None
    steps: Sequence[tuple[int, int, int, int]] = ()
    child_steps: Sequence[tuple[int, int, int, int]] = ()
    turns: int = 1


CASES: dict[str, Expected] = {
    "text": Expected(text="Fine.", steps=[(12, 0, 3, 0)]),
    "reasoning": Expected(text="Four.", steps=[(70, 30, 15, 5)]),
    "tool-call": Expected(text="Done.", steps=[(50, 0, 8, 0), (70, 0, 2, 0)], turns=2),
    "child-session": Expected(
        text="All done.", steps=[(40, 0, 9, 0), (60, 0, 2, 0)], child_steps=[(11, 0, 3, 0)], turns=2
    ),
    "length": Expected(error="max_output_tokens", words="output token limit"),
    "content-filter": Expected(error="content_filter", words="content filter"),
    "empty": Expected(error="unknown", words="empty response"),
    "400": Expected(error="invalid_request", words="HTTP 400: bad thing"),
    "401": Expected(error="authentication_failed", words="HTTP 401: bad key"),
    "402": Expected(error="billing_error", words="HTTP 402: insufficient credit"),
    "context-overflow": Expected(error="max_output_tokens", words="maximum context length"),
    "429": Expected(error="rate_limit", words="HTTP 429: Rate limit reached", wait_s=7200),
    "insufficient-quota": Expected(error="billing_error", words="HTTP 429: You exceeded your current quota"),
    "500": Expected(error="server_error", words="HTTP 500: boom"),
    "503": Expected(error="server_error", words="HTTP 503: overloaded", wait_s=2),
    "cut": Expected(error="server_error"),
    "hang": Expected(error="timeout", words="first_event"),
    "permission": Expected(error="permission_denied", words="bash"),
    "400-without-plugin": Expected(error="invalid_request", words="HTTP 400: bad thing"),
    "401-without-plugin": Expected(error="authentication_failed", words="HTTP 401: bad key"),
    "402-without-plugin": Expected(error="billing_error", words="HTTP 402: insufficient credit"),
    "context-overflow-without-plugin": Expected(error="max_output_tokens", words="maximum context length"),
    "429-without-plugin": Expected(error="rate_limit", words="HTTP 429: Rate limit reached", wait_s=1),
    "429-long-without-plugin": Expected(error="rate_limit", words="Rate limit reached", wait_s=60),
    "insufficient-quota-without-plugin": Expected(error="rate_limit", words="quota", wait_s=60),
    "500-without-plugin": Expected(error="server_error", words="boom", wait_s=60),
    "503-without-plugin": Expected(error="server_error", words="HTTP 503: overloaded", wait_s=1),
}


def read(folder: Path, case: str, name: str) -> Any:
    return json.loads((folder / case / f"{name}.json").read_text())


def recorded(part: str) -> list[Any]:
    """One parameter for each recorded case that has the part ("server" or "run")."""
    found = [
        (folder, path.name)
        for folder in FOLDERS
        for path in sorted(folder.iterdir())
        if (path / part).is_dir()
    ]
    return [pytest.param(folder, case, id=f"{folder.name}-{case}") for folder, case in found]


def family_of(folder: Path, case: str) -> tuple[EventFold, list[SessionEvents]]:
    """The case's events, added up."""
    fold = EventFold()
    root = read(folder, case, "server/messages")[0]["info"]["sessionID"]
    fold.watch(root, 0.0)
    for at, event in enumerate(read(folder, case, "server/events")):
        fold.add(event, float(at))
    return fold, fold.family(root)


def judged(result: SessionResult) -> Answer | OpenCodeError:
    try:
        return read_outcome(result, node_id="node", now=MOMENT)
    except OpenCodeError as error:
        return error


def tokens(session: Session) -> list[tuple[int | None, ...]]:
    usages = [step.usage for step in session.steps]
    return [(u.input_tokens, u.cache_read_tokens, u.output_tokens, u.reasoning_tokens) for u in usages]


def check(expected: Expected, found: Answer | OpenCodeError) -> None:
    if isinstance(found, Answer):
        assert (found.text, found.turns) == (expected.text, expected.turns)
        assert found.model_ref == "fake/echo"
        return
    assert (found.error_type, expected.words in found.raw_message) == (expected.error, True), (
        found.raw_message
    )
    if isinstance(found, RateLimitError):
        assert expected.wait_s == (found.reset_time - MOMENT).total_seconds()
    if isinstance(found, ServerError):
        assert found.retry_after == expected.wait_s


def test_every_case_is_recorded_and_every_recording_is_a_case() -> None:
    assert FOLDERS
    for folder in FOLDERS:
        assert {path.name for path in folder.iterdir()} == set(CASES)


def test_the_recordings_stay_small() -> None:
    size = sum(path.stat().st_size for folder in FOLDERS for path in folder.rglob("*.json"))
    assert size < 1_500_000


@pytest.mark.parametrize(("folder", "case"), recorded("server"))
def test_the_event_stream_is_judged(folder: Path, case: str) -> None:
    fold, family = family_of(folder, case)
    root = family[0]
    expected = CASES[case]
    stopped = None
    if case == "hang":
        assert root.session_id not in fold.first_sign
        stopped = Stopped(clock="first_event", seconds=2.0)
    elif case.endswith("-without-plugin") and root.inner_retries and root.error is None and expected.error:
        assert root.inner_retries[0].next_at == NEXT
        stopped = Stopped(wait=root.inner_retries[0])
    answer: Mapping[str, Any] = read(folder, case, "server/answer")
    result = SessionResult(
        session_id=root.session_id,
        sessions=[
            session_of(state.session_id, state.messages, parent_id=state.parent_id) for state in family
        ],
        error=root.error if "info" not in (answer["body"] or {}) else None,
        stopped=stopped,
        denied_tools=tuple(name for state in family for name in state.asked_permissions.values()),
    )
    found = judged(result)
    check(expected, found)
    if isinstance(found, Answer):
        assert tokens(result.sessions[0]) == list(expected.steps)
        assert [step for child in result.sessions[1:] for step in tokens(child)] == list(expected.child_steps)
    assert root.idle


@pytest.mark.parametrize(("folder", "case"), recorded("server"))
def test_the_events_add_up_to_the_messages(folder: Path, case: str) -> None:
    _, family = family_of(folder, case)
    recordings = [read(folder, case, "server/messages"), *read(folder, case, "server/children")]
    for state, messages in zip(family, recordings, strict=True):
        assert state.messages == messages


@pytest.mark.parametrize(("folder", "case"), recorded("run"))
def test_the_command_lines_words_are_judged(folder: Path, case: str) -> None:
    stdout = "\n".join(json.dumps(event) for event in read(folder, case, "run/stdout"))
    exported: Mapping[str, Any] = read(folder, case, "run/export")
    expected = CASES[case]
    session_id = parse_session_id(stdout)
    assert session_id is not None
    assert session_id == exported["info"]["id"]
    session = session_of(session_id, exported["messages"])
    result = SessionResult(
        session_id=session_id,
        sessions=[session],
        error=parse_run_error(stdout),
        denied_tools=("bash",) if case == "permission" else (),
        stream_text=stream_text(parse_events(stdout)),
        exit_code=read(folder, case, "run/exit")["code"],
    )
    found = judged(result)
    check(expected, found)
    if isinstance(found, Answer):
        assert tokens(session) == list(expected.steps)
        assert result.stream_text.endswith(found.text)
    assert (result.exit_code == 1) is (result.error is not None)
