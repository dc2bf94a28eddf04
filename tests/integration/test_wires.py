"""Each wire of the scripted provider through the SDK that opencode has for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from rig import BASH, Rig

from opencode_tasks.domain.records import Usage
from opencode_tasks.errors import (
    AuthenticationError,
    ContentFilteredError,
    MaxOutputTokensError,
    OpenCodeError,
    RateLimitError,
    ServerError,
)
from opencode_tasks.opencode.backend import BackendName
from opencode_tasks.opencode.config import merge
from opencode_tasks.outcomes.trace import render_trace
from opencode_tasks.testing import Reply, Wire

WIRES: tuple[Wire, ...] = get_args(Wire)
PROMPT = '\n label "this" \\n 👍\r\n'
SYSTEM = "Be brief.\n\n  Answer \"yes\" or 'no'.\n"
ANSWER = Reply(
    text="a whole answer",
    chunks=3,
    input_tokens=100,
    cache_read_tokens=30,
    cache_write_tokens=20,
    output_tokens=20,
    reasoning_tokens=5,
)
# Uncached input, cache reads, cache writes, output, reasoning.
ALL = (50, 30, 20, 15, 5)
NO_WRITES = (70, 30, 0, 15, 5)
# Token counts that the SDK reads from the provider's usage object. Groq's ignores the cache.
COUNTS: Mapping[Wire, tuple[int, int, int, int, int]] = {
    "chat": NO_WRITES,
    "responses": ALL,
    "anthropic": ALL,
    "gemini": NO_WRITES,
    "bedrock": (50, 30, 20, 20, 0),
    "openrouter": ALL,
    "azure": ALL,
    "xai": NO_WRITES,
    "groq": (100, 0, 0, 15, 5),
    "mistral": (70, 30, 0, 20, 0),
    "deepseek": NO_WRITES,
}
PICO_PER_TOKEN = (1_000_000, 100_000, 1_250_000, 2_000_000, 2_000_000)  # prices of the model "echo"
REFUSALS: Mapping[int, type[OpenCodeError]] = {
    401: AuthenticationError,
    429: RateLimitError,
    500: ServerError,
}
# Finish reasons for the output limit and for a filter; those of chat completions are the default.
CUTS: Mapping[Wire, tuple[str, str]] = {
    "responses": ("max_output_tokens", "content_filter"),
    "azure": ("max_output_tokens", "content_filter"),
    "anthropic": ("max_tokens", "refusal"),
    "gemini": ("MAX_TOKENS", "SAFETY"),
    "bedrock": ("max_tokens", "guardrail_intervened"),
}
CHAT_CUTS = ("length", "content_filter")


@pytest.fixture(scope="module")
def wired(opencode_binary: Path) -> Iterator[Rig]:
    """One server with a provider for each wire, whose name is the wire."""
    rig = Rig(opencode_binary)
    config: dict[str, Any] = dict(rig.spec.config)
    for wire in WIRES:
        config = merge(config, rig.provider.opencode_config(name=wire, wire=wire))
    rig.spec = replace(rig.spec, config=config)
    with rig:
        yield rig


def counts(usage: Usage) -> tuple[int | None, ...]:
    """The token counts in the order of PICO_PER_TOKEN."""
    inputs = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens)
    return (*inputs, usage.output_tokens, usage.reasoning_tokens)


def cost_pico(tokens: tuple[int, ...]) -> int:
    return sum(count * price for count, price in zip(tokens, PICO_PER_TOKEN, strict=True))


@pytest.mark.parametrize(
    ("wire", "backend"),
    [
        *((wire, "server") for wire in WIRES),
        *(pytest.param(wire, "cli", marks=pytest.mark.nightly) for wire in WIRES),
    ],
)
def test_an_answer_has_its_texts_tokens_and_cost(wired: Rig, wire: Wire, backend: BackendName) -> None:
    asked = wired.ask(ANSWER, model=f"{wire}/echo", system=SYSTEM, backend=backend)
    (call,) = asked.calls
    assert (call.wire, call.model, call.system, call.session_id) == (
        wire,
        "echo",
        SYSTEM,
        asked.attempt.session_id,
    )
    assert asked.text == ANSWER.text
    assert asked.attempt.notes == ()
    (step,) = asked.attempt.steps
    assert counts(step.usage) == COUNTS[wire]
    assert step.usage.cost_pico == cost_pico(COUNTS[wire])
    assert step.cost_source == "reported"
    # The sums equal those of the provider, also if its SDK distinguishes fewer kinds of tokens.
    assert sum(COUNTS[wire][:3]) == call.input_tokens
    assert sum(COUNTS[wire][3:]) == call.output_tokens
    assert call.ended


@pytest.mark.parametrize("wire", WIRES)
def test_a_prompt_arrives_byte_for_byte(wired: Rig, wire: Wire) -> None:
    asked = wired.ask(prompt=PROMPT, model=f"{wire}/echo")
    assert [call.prompt for call in asked.calls] == [PROMPT]
    assert asked.text == PROMPT


@pytest.mark.parametrize("wire", WIRES)
def test_reasoning_precedes_the_answer(wired: Rig, wire: Wire) -> None:
    asked = wired.ask(Reply(text="Four.", reasoning_text="Two and two."), model=f"{wire}/echo")
    (session,) = asked.attempt.sessions
    assert render_trace(session.messages) == "[Thinking]\nTwo and two.\n\n[Response]\nFour."


@pytest.mark.parametrize("wire", WIRES)
def test_a_tool_call_has_a_second_step(wired: Rig, wire: Wire) -> None:
    first = Reply(tool_calls=[BASH], input_tokens=50, output_tokens=8)
    second = Reply(text="done", input_tokens=70, output_tokens=9)
    asked = wired.ask(first, second, model=f"{wire}/echo", agent="worker", system=None)
    assert asked.text == "done"
    one, two = asked.calls
    assert one.prompt == two.prompt
    assert "stepped" not in str(one.body)
    assert "stepped\\n" in str(two.body)  # the output of the command
    assert [counts(step.usage) for step in asked.attempt.steps] == [(50, 0, 0, 8, 0), (70, 0, 0, 9, 0)]


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("wire", WIRES)
def test_a_refusal_is_its_exception(wired: Rig, wire: Wire, status: int) -> None:
    body = {"error": {"message": "not now", "type": "refusal"}}
    reply = Reply(status=status, headers={"Retry-After": "30"}, body=body)
    asked = wired.ask(reply, model=f"{wire}/echo")
    error = asked.failed(REFUSALS[status])
    assert f"HTTP {status}: not now" in error.raw_message
    assert len(asked.calls) == 1
    assert asked.attempt.usage_known
    if isinstance(error, RateLimitError):
        assert error.reset_time.timestamp() - asked.at == pytest.approx(30, abs=5)
    if isinstance(error, ServerError):
        assert error.retry_after == 30


@pytest.mark.parametrize("wire", WIRES)
def test_an_answer_that_is_cut_at_the_output_limit(wired: Rig, wire: Wire) -> None:
    length, _ = CUTS.get(wire, CHAT_CUTS)
    asked = wired.ask(Reply(text="a part", finish_reason=length), model=f"{wire}/echo")
    assert asked.failed(MaxOutputTokensError).partial_text == "a part"
    assert len(asked.calls) == 1


@pytest.mark.parametrize("wire", [wire for wire in WIRES if wire != "mistral"])
def test_an_answer_that_is_filtered(wired: Rig, wire: Wire) -> None:
    """Mistral has no finish reason for it."""
    _, filtered = CUTS.get(wire, CHAT_CUTS)
    asked = wired.ask(Reply(text="a part", finish_reason=filtered), model=f"{wire}/echo")
    assert asked.failed(ContentFilteredError).partial_text == "a part"
    assert len(asked.calls) == 1


def test_a_prompt_that_gemini_blocks_is_filtered(wired: Rig) -> None:
    asked = wired.ask(Reply(block_reason="PROHIBITED_CONTENT"), model="gemini/echo")
    assert "PROHIBITED_CONTENT" in asked.failed(ContentFilteredError).raw_message
    assert len(asked.calls) == 1
