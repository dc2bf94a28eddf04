"""Parsers, classification and judgement on what the real opencode said (see recordings/record.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from opencode_tasks.domain.records import Answer, Session
from opencode_tasks.errors import OpenCodeError, RateLimitError, ServerError
from opencode_tasks.opencode.cli_backend import stream_text
from opencode_tasks.outcomes.backend_result import SessionResult, Stopped
from opencode_tasks.outcomes.cli_output import parse_events, parse_run_error, parse_session_id
from opencode_tasks.outcomes.event_stream import EventFold, SessionEvents
from opencode_tasks.outcomes.outcome import read_outcome
from opencode_tasks.outcomes.session_messages import session_of
from opencode_tasks.testing import Wire

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


# Token counts on each wire of an answer whose provider reports 100 input tokens, 30 of them read from a cache
# and 20 written to one, and 20 output tokens, 5 of them reasoning. Not every SDK distinguishes all of them.
CACHED: Mapping[Wire, tuple[int, int, int, int]] = {
    "chat": (70, 30, 15, 5),
    "responses": (50, 30, 15, 5),
    "anthropic": (50, 30, 15, 5),
    "gemini": (70, 30, 15, 5),
    "bedrock": (50, 30, 20, 0),
    "openrouter": (50, 30, 15, 5),
    "azure": (50, 30, 15, 5),
    "xai": (70, 30, 15, 5),
    "groq": (100, 0, 15, 5),
    "mistral": (70, 30, 20, 0),
    "deepseek": (70, 30, 15, 5),
}


def wire_cases(wire: Wire) -> dict[str, Expected]:
    """The cases of a wire, by their folder."""
    output, reasoning = CACHED[wire][2:]
    cases = {
        "answer": Expected(text="Fine.", steps=[(100, 0, 20, 0)]),
        "thinking": Expected(text="Four.", steps=[(100, 0, output, reasoning)]),
        "tool-call": Expected(text="Done.", steps=[(50, 0, 8, 0), (70, 0, 2, 0)], turns=2),
        "cached": Expected(text="Cached.", steps=[CACHED[wire]]),
        "stream-error": Expected(error="server_error", words="Overloaded"),
        "status-error": Expected(error="rate_limit", words="HTTP 429: Rate limit reached", wait_s=7200),
    }
    return {f"wires/{wire}/{name}": expected for name, expected in cases.items()}


CASES: dict[str, Expected] = {
    **{name: case for wire in get_args(Wire) for name, case in wire_cases(wire).items()},
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
    "hang": Expected(error="timeout", words="--first-event-timeout 2"),
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
        (folder, path.parent.relative_to(folder).as_posix())
        for folder in FOLDERS
        for path in sorted(folder.rglob(part))
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


def check(case: str, found: Answer | OpenCodeError) -> None:
    expected = CASES[case]
    if isinstance(found, Answer):
        assert (found.text, found.turns) == (expected.text, expected.turns)
        assert found.model_ref == (f"{case.split('/')[1]}/echo" if "/" in case else "fake/echo")
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
        assert {path.parent.relative_to(folder).as_posix() for path in folder.rglob("server")} == set(CASES)


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
    check(case, found)
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


def outcome_of(messages: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """Text, finish reason, token counts and cost, or the class and message of the error."""
    session = session_of("ses", messages)
    found = judged(SessionResult(session_id="ses", sessions=[session]))
    usages = [step.usage for step in session.steps]
    if isinstance(found, OpenCodeError):
        return type(found), found.raw_message, usages
    return found.text, found.finish_reason, found.model_ref, usages


WIRES_WITH_RUN = [param for param in recorded("run") if "wires/" in str(param.values[1])]


@pytest.mark.parametrize(("folder", "case"), WIRES_WITH_RUN)
def test_events_messages_and_export_have_the_same_outcome(folder: Path, case: str) -> None:
    from_messages = outcome_of(read(folder, case, "server/messages"))
    _, (root, *_) = family_of(folder, case)
    assert outcome_of(root.messages) == from_messages
    assert outcome_of(read(folder, case, "run/export")["messages"]) == from_messages


def test_no_token_of_a_wire_is_lost() -> None:
    for folder in FOLDERS:
        for wire in get_args(Wire):
            messages = read(folder, f"wires/{wire}/cached", "server/messages")
            (step,) = session_of("ses", messages).steps
            usage = step.usage
            counts = [usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens]
            assert (sum(count or 0 for count in counts), step.cost_source) == (100, "reported"), wire
            assert (usage.output_tokens or 0) + (usage.reasoning_tokens or 0) == 20, wire


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
    check(case, found)
    if isinstance(found, Answer):
        assert tokens(session) == list(expected.steps)
        assert result.stream_text.endswith(found.text)
    assert (result.exit_code == 1) is (result.error is not None)
