"""The contract of the backends: the same cases on the scripted one and on both that run opencode.

Tests of the engine, of waits and of outputs use the scripted backend, whose rows take milliseconds. They
prove what they claim because each case here has the same result on all three.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import formatdate
from typing import Any

import pytest
from naughty import NAUGHTY
from rig import BASH, BOTH, RARELY_CLI, Asked, Rig, TestedBackend

from opencode_tasks.errors import (
    AuthenticationError,
    BillingError,
    BudgetExceededError,
    ContentFilteredError,
    InvalidRequestError,
    MaxOutputTokensError,
    OpenCodeError,
    OpenCodeTimeoutError,
    RateLimitError,
    ServerError,
    StructuredOutputError,
    UnknownOpenCodeError,
)
from opencode_tasks.opencode.backend import Clocks, Request
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.outcomes.trace import render_trace
from opencode_tasks.testing import Reply
from opencode_tasks.testing.scripted_backend import ScriptedBackend

ALL = ["scripted", *BOTH]
MOSTLY = ["scripted", *RARELY_CLI]


def refusal(message: str, **more: str) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A reply of the provider, and the exception that is expected for it."""

    reply: Reply | Callable[[], Reply]
    kind: type[OpenCodeError]
    words: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    reset_s: float | None = None
    calls: int = 1
    usage_known: bool = True


def in_future(seconds: float) -> Callable[[], Reply]:
    """A 429 with an HTTP date; the date is made when the test runs."""
    return lambda: Reply(status=429, headers={"Retry-After": formatdate(time.time() + seconds, usegmt=True)})


RATE = refusal("Rate limit reached", type="rate")
TOO_LONG = refusal(
    "This model's maximum context length is 100", code="context_length_exceeded", type="invalid_request_error"
)
QUOTA = refusal("You exceeded your current quota", code="insufficient_quota", type="insufficient_quota")

FAULTS: dict[str, Fault] = {
    "401": Fault(
        reply=Reply(status=401, body=refusal("bad key")), kind=AuthenticationError, words="HTTP 401: bad key"
    ),
    "403": Fault(
        reply=Reply(status=403, body=refusal("no entry")), kind=AuthenticationError, words="no entry"
    ),
    "402": Fault(
        reply=Reply(status=402, body=refusal("insufficient credit")),
        kind=BillingError,
        words="insufficient credit",
    ),
    "400": Fault(
        reply=Reply(status=400, body=refusal("bad thing")), kind=InvalidRequestError, words="bad thing"
    ),
    "404": Fault(
        reply=Reply(status=404, body=refusal("no such model")),
        kind=InvalidRequestError,
        words="no such model",
    ),
    "429-integer": Fault(
        reply=Reply(status=429, headers={"Retry-After": "3"}, body=RATE),
        kind=RateLimitError,
        words="Rate limit reached",
        reset_s=3,
    ),
    "429-fraction": Fault(
        reply=Reply(status=429, headers={"retry-after": "12.5"}, body=RATE), kind=RateLimitError, reset_s=12.5
    ),
    "429-date": Fault(reply=in_future(90), kind=RateLimitError, reset_s=90),
    "429-ms": Fault(
        reply=Reply(status=429, headers={"retry-after-ms": "20000", "retry-after": "1"}, body=RATE),
        kind=RateLimitError,
        reset_s=20,
    ),
    "429-none": Fault(reply=Reply(status=429, body=RATE), kind=RateLimitError, reset_s=60),
    "429-quota": Fault(reply=Reply(status=429, body=QUOTA), kind=BillingError, words="current quota"),
    "500": Fault(
        reply=Reply(status=500, body=refusal("boom")),
        kind=ServerError,
        words="HTTP 500: boom",
        fields={"retry_after": None},
    ),
    "502-html": Fault(
        reply=Reply(status=502, headers={"content-type": "text/html"}, body="<html>bad gateway</html>"),
        kind=ServerError,
        words="bad gateway",
        fields={"retry_after": None},
    ),
    "503": Fault(
        reply=Reply(status=503, headers={"Retry-After": "2"}, body=refusal("overloaded")),
        kind=ServerError,
        fields={"retry_after": 2.0},
    ),
    "529": Fault(
        reply=Reply(status=529, body=refusal("overloaded")),
        kind=ServerError,
        words="overloaded",
        fields={"retry_after": None},
    ),
    "context": Fault(
        reply=Reply(status=400, body=TOO_LONG), kind=MaxOutputTokensError, words="maximum context length"
    ),
    "length": Fault(
        reply=Reply(text="partial", finish_reason="length"),
        kind=MaxOutputTokensError,
        fields={"partial_text": "partial"},
    ),
    "filter": Fault(
        reply=Reply(text="abc", finish_reason="content_filter"),
        kind=ContentFilteredError,
        fields={"partial_text": "abc"},
    ),
    "overloaded in stream": Fault(
        reply=Reply(text="", stream_error={"type": "overloaded_error", "message": "Overloaded"}),
        kind=ServerError,
        words="Overloaded",
    ),
    "limit in stream": Fault(
        reply=Reply(
            text="", stream_error={"type": "rate_limit_error", "message": "Please try again in 20s."}
        ),
        kind=RateLimitError,
        reset_s=20,
    ),
    "no end": Fault(reply=Reply(text="half", has_end=False), kind=ServerError, usage_known=False),
    "empty": Fault(reply=Reply(text=""), kind=UnknownOpenCodeError, words="empty response"),
    "closed": Fault(reply=Reply(reset=True), kind=ServerError, usage_known=False),
    "cut": Fault(reply=Reply(text="abcdef", chunks=3, cut_after=1), kind=ServerError, usage_known=False),
}
# What the command line is tried with for each change; the other faults are for `make nightly`.
CLI_KINDS = ("401",)


def scripted(fault: Fault) -> Reply:
    return fault.reply if isinstance(fault.reply, Reply) else fault.reply()


def check(fault: Fault, asked: Asked) -> None:
    """The exception is the table's, and the provider was asked no more often than it says."""
    error = asked.failed(fault.kind)
    assert fault.words in error.raw_message
    assert {name: getattr(error, name) for name in fault.fields} == fault.fields
    if isinstance(error, RateLimitError):
        assert fault.reset_s is not None
        assert error.reset_time.tzinfo is UTC
        assert error.reset_time.timestamp() - asked.at == pytest.approx(fault.reset_s, abs=5 + asked.seconds)
    assert len(asked.calls) == fault.calls
    assert asked.attempt.session_id
    # Opencode begins to retry some broken streams; the plugin answers that in the provider's place.
    assert not (asked.attempt.inner_retries and fault.usage_known)
    assert asked.attempt.usage_known is fault.usage_known
    assert asked.attempt.notes == ()


def fault_cases() -> Iterator[Any]:
    for name in FAULTS:
        yield pytest.param(name, "scripted")
        yield pytest.param(name, "server")
        yield pytest.param(name, "cli", marks=pytest.mark.slow if name in CLI_KINDS else pytest.mark.nightly)


@pytest.mark.parametrize(("name", "backend"), list(fault_cases()))
def test_a_fault_is_its_exception(rig: Rig, name: str, backend: TestedBackend) -> None:
    check(FAULTS[name], rig.ask(scripted(FAULTS[name]), backend=backend))


CLOCK_CASES: Mapping[str, tuple[Reply, Clocks]] = {
    "first_event": (Reply(hang=True), Clocks(first_event_s=2, stall_s=60, total_s=60)),
    "stall": (
        Reply(text="abcdefgh", chunks=4, chunk_delay_s=20),
        Clocks(first_event_s=60, stall_s=1.5, total_s=60),
    ),
    "total": (
        Reply(text="a" * 1200, chunks=1200, chunk_delay_s=0.1),
        Clocks(first_event_s=60, stall_s=60, total_s=2),
    ),
}
# A process needs some seconds to start.
CLI_CLOCKS: Mapping[str, Clocks] = {
    "first_event": Clocks(first_event_s=30, stall_s=90, total_s=90),
    "stall": Clocks(first_event_s=90, stall_s=3, total_s=90),
    "total": Clocks(first_event_s=90, stall_s=90, total_s=30),
}


@pytest.mark.parametrize(
    ("clock", "backend"),
    [
        *((clock, "scripted") for clock in CLOCK_CASES),
        *(pytest.param(clock, "server", marks=pytest.mark.slow) for clock in CLOCK_CASES),
        pytest.param("stall", "cli", marks=pytest.mark.nightly),
        pytest.param("first_event", "cli", marks=pytest.mark.nightly),
        pytest.param("total", "cli", marks=pytest.mark.nightly),
    ],
)
def test_a_clock_runs_out(rig: Rig, clock: str, backend: TestedBackend) -> None:
    reply, clocks = CLOCK_CASES[clock]
    if backend == "cli":
        clocks = CLI_CLOCKS[clock]
    seconds: float = getattr(clocks, f"{clock}_s")
    asked = rig.ask(reply, clocks=clocks, backend=backend)
    error = asked.failed(OpenCodeTimeoutError)
    assert (error.clock, error.seconds) == (clock, seconds)
    assert asked.seconds < seconds + 40
    assert not asked.attempt.usage_known
    assert len(asked.calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", MOSTLY)
def test_a_comment_of_the_provider_is_a_sign_of_life(rig: Rig, backend: TestedBackend) -> None:
    clocks = CLI_CLOCKS["stall"] if backend == "cli" else Clocks(first_event_s=2, stall_s=2, total_s=60)
    asked = rig.ask(Reply(text="at last", keep_alive_s=4), clocks=clocks, backend=backend)
    assert asked.text == "at last"


PROMPTS = {
    "quotes": "say \"this\" and 'that' and `those` $HOME \\n",
    "newlines": "\n\n two lines \n and a third \n\n",
    "crlf": "one\r\ntwo\r\n\tthree\r",
    "option": "--model nothing --help",
    "emoji": "👩‍👩‍👧 naïve ﬁ \u2028 e\u0301",
    "punctuation": "?!",
    "at": "@file.txt /command !bash",
    "naughty": "\n".join(NAUGHTY.values()),
}


# All the hard ones at once, so that one process shows them.
PROMPTS["all"] = "--help \n" + "\n".join(PROMPTS.values()) + "\r\n\n"


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, backend) for name in PROMPTS for backend in ("scripted", "server")),
        pytest.param("all", "cli", marks=pytest.mark.nightly),
        pytest.param("newlines", "cli", marks=pytest.mark.nightly),
        pytest.param("punctuation", "cli", marks=pytest.mark.nightly),
    ],
)
def test_a_prompt_arrives_byte_for_byte(rig: Rig, name: str, backend: TestedBackend) -> None:
    asked = rig.ask(prompt=PROMPTS[name], backend=backend)
    assert [call.prompt for call in asked.calls] == [PROMPTS[name]]
    assert asked.text == PROMPTS[name]
    assert asked.calls[0].system == "Be brief."
    assert asked.attempt.notes == ()


@pytest.mark.parametrize("backend", MOSTLY)
def test_a_prompt_of_a_megabyte_arrives(rig: Rig, backend: TestedBackend) -> None:
    prompt = "a'b\"c \n" * 150_000
    asked = rig.ask(prompt=prompt, backend=backend)
    assert len(asked.calls) == 1
    assert asked.calls[0].prompt == prompt
    assert asked.text == prompt


@pytest.mark.parametrize("backend", MOSTLY)
def test_the_system_text_arrives_as_given(rig: Rig, backend: TestedBackend) -> None:
    texts = (
        "You label.\n\n  Answer \"yes\" or 'no'.\n",
        "Du bist knapp. 👍",
        "{file:missing} {env:HOME} {file:/etc/hostname} \\u007bfile:x} {{}} $HOME",
        "long " * 60_000,
        PROMPTS["naughty"],
    )
    for system in texts:
        asked = rig.ask(system=system, backend=backend)
        assert [call.system for call in asked.calls] == [system]


@pytest.mark.parametrize("backend", MOSTLY)
def test_both_steps_of_a_tool_session_are_counted(rig: Rig, backend: TestedBackend) -> None:
    asked = rig.ask(
        Reply(
            tool_calls=[BASH], input_tokens=100, cache_read_tokens=30, output_tokens=20, reasoning_tokens=5
        ),
        Reply(text="done", input_tokens=200, output_tokens=7),
        agent="worker",
        system=None,
        backend=backend,
    )
    assert asked.text == "done"
    assert asked.good.turns == 2
    first, second = (step.usage for step in asked.attempt.steps)
    assert (first.input_tokens, first.cache_read_tokens, first.output_tokens, first.reasoning_tokens) == (
        70,
        30,
        15,
        5,
    )
    assert (second.input_tokens, second.output_tokens) == (200, 7)
    # Per million tokens: 1 USD in, 0.1 cached, 2 out.
    assert first.cost_pico == 70_000_000 + 3_000_000 + 40_000_000
    assert second.cost_pico == 200_000_000 + 14_000_000
    # The result of the tool.
    assert asked.calls[1].body["messages"][-1]["role"] == "tool"


ANSWER = Reply(
    text="a whole answer",
    chunks=3,
    reasoning_text="Two and two.",
    input_tokens=100,
    cache_read_tokens=30,
    output_tokens=20,
    reasoning_tokens=5,
)


@pytest.mark.parametrize("backend", ALL)
def test_an_answer_has_its_texts_tokens_cost_and_session(rig: Rig, backend: TestedBackend) -> None:
    asked = rig.ask(ANSWER, backend=backend)
    (call,) = asked.calls
    (session,) = asked.attempt.sessions
    assert call.session_id == session.session_id == asked.attempt.session_id
    assert (asked.text, asked.good.finish_reason, asked.good.turns) == ("a whole answer", "stop", 1)
    assert asked.good.model_ref == "fake/echo"
    assert render_trace(session.messages) == "[Thinking]\nTwo and two.\n\n[Response]\na whole answer"
    (step,) = session.steps
    usage = step.usage
    inputs = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens)
    assert (*inputs, usage.output_tokens, usage.reasoning_tokens) == (70, 30, 0, 15, 5)
    # Per million tokens: 1 USD in, 0.1 cached, 2 out.
    assert usage.cost_pico == 70_000_000 + 3_000_000 + 40_000_000
    assert step.cost_source == "reported"
    assert asked.attempt.usage_known


@pytest.mark.parametrize("backend", MOSTLY)
@pytest.mark.parametrize(("model", "cost_pico"), [("fake/free", 0), ("fake/unpriced", None)])
def test_a_model_may_be_free_or_have_no_price(
    rig: Rig, model: str, cost_pico: int | None, backend: TestedBackend
) -> None:
    asked = rig.ask(Reply(text="fine", input_tokens=50, output_tokens=5), model=model, backend=backend)
    (step,) = asked.attempt.steps
    assert (step.usage.input_tokens, step.usage.cost_pico) == (50, cost_pico)
    assert step.cost_source == ("unpriced" if cost_pico is None else "reported")


@pytest.mark.parametrize("backend", MOSTLY)
def test_usage_that_is_not_reported_is_unknown(rig: Rig, backend: TestedBackend) -> None:
    asked = rig.ask(Reply(text="whole", reports_usage=False), backend=backend)
    assert asked.text == "whole"
    (step,) = asked.attempt.steps
    assert (step.usage.input_tokens, step.usage.output_tokens, step.usage.cost_pico) == (None, None, None)
    assert not asked.attempt.usage_known


@pytest.mark.parametrize("backend", MOSTLY)
def test_an_unknown_finish_reason_of_a_whole_text_is_an_answer(rig: Rig, backend: TestedBackend) -> None:
    asked = rig.ask(Reply(text="done", finish_reason="eos"), backend=backend)
    assert (asked.text, asked.good.finish_reason) == ("done", "eos")
    assert len(asked.calls) == 1


@pytest.mark.parametrize("backend", MOSTLY)
def test_an_agent_sends_no_request_beyond_its_cost_limit(rig: Rig, backend: TestedBackend) -> None:
    work = Reply(tool_calls=[BASH], input_tokens=100, output_tokens=20)
    asked = rig.ask(work, agent="worker", system=None, backend=backend, max_cost_pico=280_000_000)
    error = asked.failed(BudgetExceededError)
    assert (error.limit_usd, error.spent_usd) == (0.00028, 0.00042)
    assert len(asked.calls) == len(asked.attempt.steps) == 3
    assert asked.attempt.usage_known


@pytest.mark.parametrize("backend", MOSTLY)
def test_a_prompt_that_is_cancelled_ends_its_request(rig: Rig, backend: TestedBackend) -> None:
    rig.provider.on("cancel this", Reply(text="abcdefgh", chunks=4, chunk_delay_s=30))
    prompt = f"cancel this on {backend}"

    async def cancelled() -> tuple[str, Sequence[Any]]:
        way = await rig.backend(backend, rig.spec)
        sessions: list[str] = []
        request = Request(prompt=prompt, model_ref="fake/echo", system="Be brief.")
        running = asyncio.create_task(way.run(request, sessions.append))
        while not any(call.prompt == prompt and call.status == 200 for call in rig.provider.calls):
            assert not running.done()
            await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        found = way.partial_sessions(sessions[0])
        way.release_session(sessions[0])
        return sessions[0], found

    session_id, (session,) = server_pool.call(cancelled)
    assert session.session_id == session_id
    assert session.steps == []
    (call,) = [call for call in rig.provider.calls if call.prompt == prompt]
    assert not call.ended


def test_a_scripted_backend_outlives_the_loop_of_its_requests(rig: Rig) -> None:
    backend = ScriptedBackend(rig.provider, rig.spec)
    request = Request(prompt="another loop", model_ref="fake/echo", system="Be brief.")
    asyncio.run(backend.run(request, lambda _: None))
    result = asyncio.run(backend.run(request, lambda _: None))
    asyncio.run(backend.aclose())
    assert (result.fault, len(result.sessions[0].steps)) == ("", 1)


SCHEMA = {"type": "object", "properties": {"label": {"enum": ["good", "bad"]}}, "required": ["label"]}


@pytest.mark.parametrize("backend", MOSTLY)
def test_an_answer_that_fits_its_schema(rig: Rig, backend: TestedBackend) -> None:
    asked = rig.ask(Reply(text='{"label": "good"}'), schema=SCHEMA, backend=backend)
    assert asked.good.structured == {"label": "good"}
    assert len(asked.calls) == 1


@pytest.mark.parametrize("backend", MOSTLY)
def test_one_repair_turn_says_what_was_wrong(rig: Rig, backend: TestedBackend) -> None:
    first, second = (
        Reply(text='{"label": "so so"}', input_tokens=5),
        Reply(text='{"label": "bad"}', input_tokens=9),
    )
    asked = rig.ask(first, second, schema=SCHEMA, backend=backend)
    assert asked.good.structured == {"label": "bad"}
    assert [step.usage.input_tokens for step in asked.attempt.steps] == [5, 9]
    assert "'so so' is not one of" in asked.calls[1].prompt
    assert asked.calls[0].system == asked.calls[1].system == "Be brief."


@pytest.mark.parametrize("backend", MOSTLY)
def test_no_second_repair(rig: Rig, backend: TestedBackend) -> None:
    asked = rig.ask(Reply(text="none"), schema=SCHEMA, backend=backend)
    error = asked.failed(StructuredOutputError)
    assert error.text == "none"
    assert len(asked.calls) == len(asked.attempt.steps) == 2
