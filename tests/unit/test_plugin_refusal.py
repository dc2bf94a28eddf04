"""The plugin's refusal of a request: its error, or the answer in the steps before it."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.domain.records import Answer
from opencode_tasks.errors import (
    BudgetExceededError,
    ContentFilteredError,
    InvalidRequestError,
    MaxOutputTokensError,
    OpenCodeError,
    ServerError,
    UnknownOpenCodeError,
)
from opencode_tasks.outcomes.backend_result import SessionResult
from opencode_tasks.outcomes.outcome import read_outcome
from opencode_tasks.outcomes.plugin_refusal import HEADER, read_refusal
from opencode_tasks.outcomes.session_messages import session_of

NOW = datetime(2026, 5, 1, tzinfo=UTC)
STREAM = "text/event-stream; charset=utf-8"
TOKENS = {"input": 7, "output": 2, "reasoning": 0, "cache": {"read": 0, "write": 0}}
NO_TOKENS = {"input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}}


def error(header: str) -> dict[str, Any]:
    data = {"message": "this request was not sent", "statusCode": 400, "responseHeaders": {HEADER: header}}
    return {"name": "APIError", "data": data}


def refused(**refusal: Any) -> dict[str, Any]:
    return error(base64.b64encode(json.dumps(refusal).encode()).decode())


def ended(finish: str | None = None, *, kind: str = STREAM, **wire: Any) -> dict[str, Any]:
    wire = {"finish": finish, "done": finish is not None, "blocked": None, "type": kind, **wire}
    return refused(kind="end", step="unknown", wire=wire)


def result(error: dict[str, Any], text: str = "", tokens: dict[str, Any] = TOKENS) -> SessionResult:
    """A session whose one step was followed by a refused request."""
    whose = {"role": "assistant", "providerID": "p", "modelID": "m"}
    step = {"type": "step-finish", "id": "prt_1", "cost": 0.5, "tokens": tokens, "reason": "unknown"}
    parts = [{"type": "text", "text": text}, step]
    messages = [
        {"info": {"role": "user"}, "parts": [{"type": "text", "text": "asked"}]},
        {"info": {**whose, "finish": "unknown"}, "parts": parts},
        {"info": {**whose, "error": error}, "parts": []},
    ]
    return SessionResult(session_id="ses_1", sessions=[session_of("ses_1", messages)], exit_code=1)


def outcome(came: SessionResult) -> Answer | OpenCodeError:
    try:
        return read_outcome(came, node_id="n", now=NOW)
    except OpenCodeError as found:
        return found


@pytest.mark.parametrize(
    "finish",
    [
        *("eos", "eos_token", "EOS_TOKEN", "end", "end_turn", "endTurn", "OTHER", "COMPLETE", "complete"),
        *("finished", "done", "stop_sequence", "STOP", "stop_token", "eot", "1", "normal", "end_of_block"),
    ],
)
def test_a_text_with_an_unknown_finish_reason_is_an_answer(finish: str) -> None:
    answer = outcome(result(ended(finish), "yes"))
    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason, answer.turns) == ("yes", finish, 1)
    assert answer.attempt is not None
    assert answer.attempt.usage_known
    assert [step.usage.input_tokens for step in answer.attempt.steps] == [7]


CUT_SHORT: list[tuple[type[OpenCodeError], list[str]]] = [
    (
        ContentFilteredError,
        [
            "content_filter: RECITATION",
            "content-filter",
            "contentFilter",
            "safety",
            "blocked",
            "SPII",
            "LANGUAGE",
        ],
    ),
    (
        MaxOutputTokensError,
        ["token_limit", "max_new_tokens", "MaxTokens", "max_length", "length_limit", "truncated"],
    ),
    (
        ServerError,
        [
            *(
                "time_limit",
                "timeout",
                "timed-out",
                "not_finished",
                "cancelled",
                "canceled",
                "incomplete",
                "failed",
            ),
            *(
                "interrupted",
                "system_error",
                "error: x",
                "MALFORMED_RESPONSE",
                "partial",
                "engine_overloaded",
            ),
        ],
    ),
]


@pytest.mark.parametrize(("kind", "reasons"), CUT_SHORT)
def test_half_an_answer_is_no_answer_whatever_its_end_is_called(
    kind: type[OpenCodeError], reasons: list[str]
) -> None:
    for reason in reasons:
        found = outcome(result(ended(reason), "half"))
        assert type(found) is kind, reason


def test_a_text_with_an_empty_finish_reason_and_an_end_mark_is_an_answer() -> None:
    assert isinstance(outcome(result(ended("", done=True), "yes")), Answer)
    assert isinstance(outcome(result(ended("", done=False), "yes")), ServerError)


FAULTS: list[tuple[str, dict[str, Any], str, type[OpenCodeError], str]] = [
    ("no finish reason", ended(), "half", ServerError, "without a finish reason"),
    ("HTML", ended(kind="text/html"), "", ServerError, "text/html instead of a stream"),
    ("JSON", ended("stop", kind="application/json"), "", ServerError, "application/json instead of a"),
    ("no text", ended("eos"), "", UnknownOpenCodeError, "sent no text"),
    ("blocked", ended(blocked="SAFETY"), "", ContentFilteredError, "blocked the prompt (SAFETY)"),
    ("filtered", ended("sensitive"), "half", ContentFilteredError, "'sensitive'"),
    ("too long", ended("model_context_window_exceeded"), "half", MaxOutputTokensError, "window_exceeded"),
    ("failed", ended("insufficient_system_resource"), "half", ServerError, "insufficient_system_resource"),
    ("no tool call", ended("tool_calls"), "I call", UnknownOpenCodeError, "called no tool"),
    (
        "failing tools",
        refused(kind="tools", steps=8, tool="bash", error="no such file"),
        "",
        InvalidRequestError,
        "no tool call succeeded in 8 model calls in a row; the last one: bash: no such file",
    ),
    ("steps", refused(kind="steps", limit=500), "", BudgetExceededError, "used 500 model calls"),
    (
        "cost",
        refused(kind="cost", limit_pico=10**11, spent_pico=5 * 10**11),
        "half",
        BudgetExceededError,
        "the row had cost $0.50; at most $0.10 was allowed",
    ),
]


@pytest.mark.parametrize(
    ("given_error", "text", "kind", "words"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_errors(given_error: dict[str, Any], text: str, kind: type[OpenCodeError], words: str) -> None:
    found = outcome(result(given_error, text))
    assert type(found) is kind
    assert isinstance(found, OpenCodeError)
    assert words in found.raw_message
    assert "400" not in found.raw_message
    assert found.partial_text == (text if found.reaction.keeps_partial_text else "")
    assert found.attempt is not None
    assert [step.usage.cost_pico for step in found.attempt.steps] == [5 * 10**11]
    # The message of the request that was not sent is no turn.
    assert len(found.attempt.sessions[0].messages) == 2


def test_the_usage_of_a_cut_stream_is_unknown() -> None:
    def is_known(came: SessionResult) -> bool:
        attempt = outcome(came).attempt
        assert attempt is not None
        return attempt.usage_known

    assert not is_known(result(ended(), "half"))
    assert not is_known(result(ended("error"), tokens=NO_TOKENS))
    assert is_known(result(ended("error")))
    assert is_known(result(ended(blocked="SAFETY")))


def test_without_messages_the_text_of_the_stream_counts() -> None:
    came = SessionResult(session_id="ses_1", error=ended("eos"), stream_text="streamed", usage_known=False)
    answer = outcome(came)
    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason) == ("streamed", "eos")


@pytest.mark.parametrize(
    "other",
    [
        None,
        {"name": "APIError", "data": {"message": "no", "statusCode": 400, "responseHeaders": {}}},
        error("not base64!"),
        error(base64.b64encode(b"not JSON").decode()),
        error(base64.b64encode(b"[1]").decode()),
        refused(kind="another"),
    ],
)
def test_another_error_is_no_refusal(other: dict[str, Any] | None) -> None:
    assert read_refusal(other) is None


VALUES = st.none() | st.integers() | st.text()


@given(
    st.dictionaries(
        st.sampled_from(["wire", "steps", "limit", "tool", "error", "limit_pico", "spent_pico"]),
        VALUES | st.dictionaries(st.sampled_from(["finish", "type", "blocked", "done"]), VALUES),
    ),
    st.sampled_from(["end", "tools", "steps", "cost"]),
)
def test_whatever_the_header_holds_becomes_an_answer_or_a_typed_error(
    fields: dict[str, Any], kind: str
) -> None:
    assert isinstance(outcome(result(refused(**fields, kind=kind), "text")), Answer | OpenCodeError)
