"""Each case with each provider: class, requests, reset time, usage and cost; and forms of single wires."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from rig import Rig
from wire_cases import CASES, PROVIDERS, faults_of, wired_rig

from opencode_tasks.errors import ServerError
from opencode_tasks.testing import Reply, Wire
from opencode_tasks.testing.wires import WIRES, sse
from opencode_tasks.testing.wires.turn import Tokens, Turn

THOUGHTFUL = Reply(text="whole", reasoning_text="Hm.", input_tokens=100, output_tokens=20, reasoning_tokens=5)
# A model that thinks, the options of its variant, and the place of its budget in a request.
THINKING: Mapping[str, tuple[str, Mapping[str, Any], tuple[str, ...]]] = {
    "bedrock": (
        "anthropic.claude-thinker",
        {"reasoningConfig": {"type": "enabled", "budgetTokens": 2000}},
        ("additionalModelRequestFields", "thinking", "budget_tokens"),
    ),
    "vertex": (
        "thinker",
        {"thinkingConfig": {"includeThoughts": True, "thinkingBudget": 2000}},
        ("generationConfig", "thinkingConfig", "thinkingBudget"),
    ),
}


# Cases whose reply has another form on each wire.
WIRE_FORMS = ("overloaded in stream", "limit in stream", "cut stream", "output limit", "no usage")
# Cases with one reply for all wires, by the code that reads them.
GROUPS = (
    ("401", "402", "429 without credit", "500", "503", "400", "404", "400 content", "400 context"),
    ("429 for two hours", "429 in words"),
    ("no connection", "cut connection", "HTML"),
    ("filtered answer", "unknown end", "comments"),
    ("answer", "cached and reasoned", "tool"),
)


def test_every_case_is_in_a_group() -> None:
    assert sorted([*WIRE_FORMS, *(name for group in GROUPS for name in group)]) == sorted(CASES)
    assert {name for _, name in sample()} == CASES.keys()


@pytest.fixture(scope="module")
def wired(opencode_binary: Path) -> Iterator[Rig]:
    rig = wired_rig(opencode_binary)
    for name, (model, options, _) in THINKING.items():
        thinker = {**rig.provider.models["echo"], "reasoning": True, "variants": {"deep": options}}
        rig.configure({"provider": {name: {"models": {model: thinker}}}})
    with rig:
        yield rig


def sample() -> set[tuple[str, str]]:
    """What is tried for each change: each provider with its own forms and one case of each group."""
    providers = list(PROVIDERS)
    turns = [(name, group[turn % len(group)]) for turn, name in enumerate(providers) for group in GROUPS]
    return {*turns, *((name, case) for name in providers for case in WIRE_FORMS)}


def frequency(pair: tuple[str, str]) -> list[pytest.MarkDecorator]:
    """How often a case is tried with a provider."""
    if pair not in sample():
        return [pytest.mark.nightly]
    return [] if pair[1] in WIRE_FORMS else [pytest.mark.slow]


@pytest.mark.parametrize(
    ("provider", "name"),
    [pytest.param(*pair, marks=frequency(pair)) for pair in product(PROVIDERS, CASES)],
)
def test_a_case_with_a_provider(wired: Rig, provider: str, name: str) -> None:
    _, faults = faults_of(wired, provider, name, "server")
    assert faults == []


def test_xai_with_its_key_in_the_environment_is_asked_over_responses(wired: Rig) -> None:
    asked = wired.ask(Reply(text="whole"), model="xai/echo")
    (call,) = asked.calls
    assert (call.path, call.authorization) == ("/xai/v1/responses", "Bearer sk-test")


@pytest.mark.parametrize("provider", THINKING)
def test_a_thinking_variant_is_requested_and_counted(wired: Rig, provider: str) -> None:
    model, _, place = THINKING[provider]
    asked = wired.ask(THOUGHTFUL, model=f"{provider}/{model}", variant="deep")
    (call,) = asked.calls
    budget: Any = call.body
    for key in place:
        budget = budget[key]
    assert budget == 2000
    assert asked.text == "whole"
    (step,) = asked.attempt.steps
    counts = (step.usage.input_tokens, (step.usage.output_tokens or 0) + (step.usage.reasoning_tokens or 0))
    assert counts == (100, 20)
    assert step.usage.cost_pico == 100 * 1_000_000 + 20 * 2_000_000


def stream_bytes(api: Wire, reply: Reply) -> bytes:
    """The stream of a reply whose text is "whole", with 40 tokens in and 10 out."""
    tokens = Tokens(input=40, cache_read=0, cache_write=0, output=10, reasoning=0)
    shape = next(iter(WIRES[api].routes.values()))
    stream = shape.stream(Turn(model="echo", created=1, reply=reply, tokens=tokens))
    head = stream.start() + stream.text("whole")
    if reply.stream_error is not None:
        return head + stream.error(reply.stream_error)
    return head + stream.close() + stream.end()


def line_ends() -> Iterator[Any]:
    """Each provider with both ends of lines: for each change with one of them."""
    for turn, provider in enumerate(name for name in PROVIDERS if name != "bedrock"):
        for number, end in enumerate((b"\r", b"\r\n")):
            yield pytest.param(provider, end, marks=() if turn % 2 == number else pytest.mark.nightly)


@pytest.mark.slow
@pytest.mark.parametrize(("provider", "end"), list(line_ends()))
def test_lines_of_a_stream_may_end_with_a_carriage_return(wired: Rig, provider: str, end: bytes) -> None:
    api = PROVIDERS[provider].words
    error = Reply(stream_error={"type": "overloaded_error", "message": "Overloaded"})
    whole, failed = (
        Reply(raw=stream_bytes(api, reply).replace(b"\n", end), content_type=sse.MEDIA_TYPE)
        for reply in (Reply(), error)
    )
    asked = wired.ask(whole, model=f"{provider}/echo")
    assert asked.text == "whole"
    (step,) = asked.attempt.steps
    assert (step.usage.input_tokens, step.usage.output_tokens) == (40, 10)
    asked = wired.ask(failed, model=f"{provider}/echo")
    assert "Overloaded" in asked.failed(ServerError).raw_message
    assert len(asked.calls) == 1
