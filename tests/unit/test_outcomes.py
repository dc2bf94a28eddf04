"""From the result of a request to an answer or to exactly one error."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from opencode_tasks import errors
from opencode_tasks.domain.records import Answer, InnerRetry, Session
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.outcomes.backend_result import SessionResult, Stopped
from opencode_tasks.outcomes.outcome import read_outcome
from opencode_tasks.outcomes.session_messages import session_of

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
ABORTED = {"name": "MessageAbortedError", "data": {"message": "Aborted"}}
UNAUTHORIZED = {"name": "APIError", "data": {"message": "no", "statusCode": 401}}
TOOL = {"type": "tool", "tool": "bash", "state": {}}
STEP = {
    "type": "step-finish",
    "id": "prt_9",
    "cost": 0.5,
    "tokens": {"input": 1, "output": 2, "reasoning": 0, "cache": {"read": 0, "write": 0}},
}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def turn(*parts: dict[str, Any], **info: Any) -> dict[str, Any]:
    whose = {"role": "assistant", "providerID": "p", "modelID": "m"}
    return {"info": {**whose, **info}, "parts": list(parts)}


def session(*messages: dict[str, Any]) -> list[Session]:
    user = {"info": {"role": "user"}, "parts": [text("asked")]}
    return [session_of("ses_1", [user, *messages])]


def result(*messages: dict[str, Any], **changes: Any) -> SessionResult:
    given: dict[str, Any] = {"session_id": "ses_1", "sessions": session(*messages), "exit_code": 0}
    return SessionResult(**(given | changes))


def judged(came: SessionResult) -> Answer | OpenCodeError:
    try:
        return read_outcome(came, node_id="n", now=NOW)
    except OpenCodeError as error:
        return error


def stopped_by_wait(message: str, *, seconds: float | None = 7200) -> Stopped:
    at = None if seconds is None else NOW + timedelta(seconds=seconds)
    return Stopped(wait=InnerRetry(session_id="ses_1", number=1, message=message, next_at=at))


DONE = turn(text("yes"), STEP, finish="stop")

FAULTS: list[tuple[str, SessionResult, type[OpenCodeError]]] = [
    ("no session", result(session_id=None, sessions=(), exit_code=-1), errors.UnknownOpenCodeError),
    ("a structured error", result(turn(error=UNAUTHORIZED)), errors.AuthenticationError),
    ("... also where text came", result(turn(text("a"), error=UNAUTHORIZED)), errors.AuthenticationError),
    ("... of the stream alone", result(error=UNAUTHORIZED), errors.AuthenticationError),
    (
        "... the export's over the stream's",
        result(turn(error=UNAUTHORIZED), error=ABORTED),
        errors.AuthenticationError,
    ),
    ("an abort of no known cause", result(turn(text("a"), error=ABORTED)), errors.UnknownOpenCodeError),
    ("cut at the limit", result(turn(text("a"), finish="length")), errors.MaxOutputTokensError),
    ("filtered", result(turn(text("a"), finish="content-filter")), errors.ContentFilteredError),
    ("no reason to end", result(turn(text("a"), finish="unknown")), errors.ServerError),
    ("empty", result(turn(finish="stop")), errors.UnknownOpenCodeError),
    ("no turn at all", result(), errors.UnknownOpenCodeError),
    ("killed in a text", result(turn(text("half")), exit_code=-9), errors.UnknownOpenCodeError),
    ("killed in a tool", result(turn(STEP, TOOL), exit_code=-9), errors.UnknownOpenCodeError),
    (
        "killed between two requests",
        result(turn(TOOL, STEP, finish="tool-calls"), exit_code=137),
        errors.UnknownOpenCodeError,
    ),
    (
        "no end, although text came",
        result(turn(text("half")), fault="broke off"),
        errors.UnknownOpenCodeError,
    ),
    ("... and a finish", result(DONE, fault="broke off"), errors.UnknownOpenCodeError),
    ("denied, no answer", result(turn(TOOL), denied_tools=("bash",)), errors.PermissionDeniedError),
    (
        "denied and aborted",
        result(turn(text("a"), error=ABORTED), denied_tools=("bash",)),
        errors.PermissionDeniedError,
    ),
    ("a clock", result(stopped=Stopped(clock="stall", seconds=5)), errors.OpenCodeTimeoutError),
    # What we aborted ourselves is neither the cause nor a success.
    (
        "a clock, then our abort",
        result(turn(error=ABORTED), stopped=Stopped(clock="total", seconds=5)),
        errors.OpenCodeTimeoutError,
    ),
    (
        "a clock, and text",
        result(DONE, stopped=Stopped(clock="total", seconds=5)),
        errors.OpenCodeTimeoutError,
    ),
    (
        "a clock, and an empty end",
        result(turn(finish="stop"), stopped=Stopped(clock="total", seconds=5)),
        errors.OpenCodeTimeoutError,
    ),
    (
        "a long wait, then our abort",
        result(turn(error=ABORTED), stopped=stopped_by_wait("Rate limit reached")),
        errors.RateLimitError,
    ),
    ("a long wait of a server", result(stopped=stopped_by_wait("Overloaded")), errors.ServerError),
]


@pytest.mark.parametrize(
    ("came", "expected"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_faults(came: SessionResult, expected: type[OpenCodeError]) -> None:
    error = judged(came)
    assert type(error) is expected
    assert isinstance(error, OpenCodeError)
    assert error.attempt is not None
    assert error.attempt.session_id == came.session_id
    assert error.attempt.sessions == came.sessions
    assert (error.node_id, error.exit_code) == ("n", came.exit_code)


@pytest.mark.parametrize(
    ("came", "answer"),
    [
        (result(DONE), "yes"),
        (result(turn(text("said"), TOOL), turn(finish="stop")), "said"),
        (result(DONE, turn(text("summary"), summary=True, finish="stop")), "yes"),
        # A tool call answers, even where it says nothing.
        (result(turn(TOOL, finish="tool-calls")), ""),
        # An answer without the tool that was refused is an answer.
        (result(DONE, denied_tools=("bash",)), "yes"),
        # Where the export failed the stream's text stands.
        (result(sessions=(), stream_text="streamed"), "streamed"),
        (result(DONE, stream_text="streamed"), "yes"),
        (result(turn(text("<think>no?</think>\n\nyes"), finish="stop")), "yes"),
        (result(turn(text("<think>no?"), text("</think>yes"), finish="stop")), "yes"),
        (result(sessions=(), stream_text="no?</think>yes"), "yes"),
        (result(DONE, exit_code=1), "yes"),
    ],
)
def test_answers(came: SessionResult, answer: str) -> None:
    found = judged(came)
    assert isinstance(found, Answer)
    assert found.text == answer
    assert found.structured is None
    assert found.attempt.sessions == came.sessions


def test_what_an_answer_tells() -> None:
    found = judged(result(turn(TOOL, STEP), DONE, stderr="warned", notes=("seen",)))
    assert isinstance(found, Answer)
    assert (found.turns, found.finish_reason, found.model_ref) == (2, "stop", "p/m")
    assert (found.attempt.stderr, found.attempt.notes, len(found.attempt.steps)) == ("warned", ("seen",), 2)


def test_only_the_last_prompt_is_judged_while_every_turn_is_kept() -> None:
    user = {"info": {"role": "user"}, "parts": [text("again")]}
    repaired = result(turn(text("old"), error=UNAUTHORIZED), user, DONE)
    found = judged(repaired)
    assert isinstance(found, Answer)
    assert (found.text, found.turns) == ("yes", 2)
    unanswered = judged(result(turn(text("old"), finish="stop"), user))
    assert isinstance(unanswered, errors.UnknownOpenCodeError)


@pytest.mark.parametrize(
    ("clock", "seconds", "words"),
    [
        ("first_event", 5.0, "the provider sent nothing within 5 s (--first-event-timeout 5)"),
        ("stall", 0.5, "the provider stopped sending for 0.5 s (--stall-timeout 0.5)"),
        ("total", 600.0, "the answer was not complete within 600 s (--timeout 600)"),
    ],
)
def test_a_clock_says_which_it_was(clock: Any, seconds: float, words: str) -> None:
    error = judged(result(stopped=Stopped(clock=clock, seconds=seconds)))
    assert isinstance(error, errors.OpenCodeTimeoutError)
    assert (error.clock, error.seconds, error.raw_message) == (clock, seconds, words)


@pytest.mark.parametrize("message", ["Rate limit reached", "Too Many Requests", "HTTP 429", "Quota exceeded"])
def test_a_long_wait_for_a_rate_limit_ends_when_opencode_would_ask_again(message: str) -> None:
    error = judged(result(stopped=stopped_by_wait(message)))
    assert isinstance(error, errors.RateLimitError)
    assert (error.reset_time, error.raw_message) == (NOW + timedelta(hours=2), message)


@pytest.mark.parametrize(("seconds", "after"), [(90, 90.0), (-5, 0.0), (None, None)])
def test_a_long_wait_for_a_server(seconds: float | None, after: float | None) -> None:
    error = judged(result(stopped=stopped_by_wait("Overloaded", seconds=seconds)))
    assert isinstance(error, errors.ServerError)
    assert error.retry_after == after


def test_partial_text_is_kept() -> None:
    error = judged(result(turn(text("half"), finish="length")))
    assert isinstance(error, errors.MaxOutputTokensError)
    assert error.partial_text == "half"


def test_denied_tools_are_named_once() -> None:
    error = judged(result(turn(TOOL), denied_tools=("webfetch", "bash", "bash")))
    assert isinstance(error, errors.PermissionDeniedError)
    assert error.tools == ("webfetch", "bash", "bash")
    assert "asked for bash, webfetch, which" in error.raw_message


@pytest.mark.parametrize(
    ("came", "words"),
    [
        (result(session_id=None, sessions=()), "no session id in opencode output"),
        (result(turn(finish="stop")), "empty response"),
        (result(stderr="died\nof old age"), "died"),
        (result(), "no answer"),
        (result(DONE, fault="the opencode server broke off"), "the opencode server broke off"),
    ],
)
def test_unknown_errors_say_what_is_known(came: SessionResult, words: str) -> None:
    error = judged(came)
    assert isinstance(error, errors.UnknownOpenCodeError)
    assert (error.raw_message, error.stderr) == (words, came.stderr)


def failed(status: int | None, **data: Any) -> dict[str, Any]:
    return turn(error={"name": "APIError", "data": {"message": "no", "statusCode": status, **data}})


def lost(reason: str) -> dict[str, Any]:
    encoded = {"unable to connect": "dW5hYmxlIHRvIGNvbm5lY3Q=", "ECONNRESET": "RUNPTk5SRVNFVA=="}[reason]
    return failed(400, responseHeaders={"x-upstream-status": "0", "x-upstream-reason": encoded})


@pytest.mark.parametrize(
    ("came", "known"),
    [
        (result(DONE), True),
        (result(DONE, usage_known=False), False),
        # An answer that says no was not sold; a connection that broke may have been.
        (result(failed(500)), True),
        (result(failed(429)), True),
        (result(failed(500), usage_known=False), False),
        (result(lost("unable to connect")), True),
        (result(lost("ECONNRESET")), False),
        (result(turn(error={"name": "UnknownError", "data": {"message": "read ECONNRESET"}})), False),
        # opencode cannot read an answer that the provider may charge.
        (result(turn(error={"name": "UnknownError", "data": {"message": "odd"}})), False),
        (result(turn(error={"name": "ProviderAuthError", "data": {"message": "no key"}})), True),
        (result(turn(error={"name": "UnknownError", "data": {"message": "Model not found: a/b"}})), True),
        (result(turn(finish="stop")), True),
    ],
)
def test_whether_all_that_was_bought_is_known(came: SessionResult, known: bool) -> None:
    found = judged(came)
    assert found.attempt is not None
    assert found.attempt.usage_known is known
