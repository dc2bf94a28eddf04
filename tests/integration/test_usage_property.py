"""Tokens and cost of random usages on every wire: those that the provider reports, or unknown."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import pytest
from rig import Rig
from wire_cases import WIRES, wired_rig

from opencode_tasks.domain.max_cost import Price, Tier
from opencode_tasks.domain.records import Step
from opencode_tasks.testing import Reply, Wire
from opencode_tasks.testing.wires import WIRES as SPECS
from opencode_tasks.testing.wires.turn import Tokens, Turn

USD = 10**12
# opencode 1.18.33 does not apply the second price of a model in the config.
LONG = {"input": 2.5, "output": 15.0, "cache_read": 0.25, "cache_write": 3.0}
COST = {"input": 1.25, "output": 10.0, "cache_read": 0.125, "cache_write": 1.5, "context_over_200k": LONG}
PRICE = Price(
    input=1_250_000_000_000,
    output=10 * USD,
    cache_read=125_000_000_000,
    cache_write=1_500_000_000_000,
    over_200k=Tier(
        above_tokens=200_000,
        input=2_500_000_000_000,
        output=15 * USD,
        cache_read=250_000_000_000,
        cache_write=3 * USD,
    ),
)
MODEL = {"cost": COST, "limit": {"context": 1_000_000, "output": 8000}}
Change = Literal["none", "strings", "null", "missing", "null detail", "no usage"]
CHANGES: tuple[Change, ...] = get_args(Change)
# Counts without which the input or the output is unknown. All other counts are parts of these.
INPUTS = {"prompt_tokens", "input_tokens", "promptTokenCount", "inputTokens"}
OUTPUTS = {"completion_tokens", "output_tokens", "candidatesTokenCount", "outputTokens"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Tokens that a provider counts, and a change of the usage object that it sends."""

    tokens: Tokens
    change: Change
    name: str = ""

    @property
    def is_complete(self) -> bool:
        return self.change in ("none", "strings")


def computed_usage(wire: Wire, tokens: Tokens) -> dict[str, Any]:
    """The usage object of a wire."""
    shape = next(iter(SPECS[wire].routes.values()))
    stream: Any = shape.stream(Turn(model="m", created=1, reply=Reply(), tokens=tokens))
    if hasattr(stream, "computed_usage"):
        return stream.computed_usage(tokens)
    module: Any = sys.modules[type(stream).__module__]
    if wire == "anthropic":
        return {**module.input_usage(tokens), **module.output_usage(tokens)}
    return module.computed_usage(tokens)


def random_case(random: Random, wire: Wire, change: Change) -> Case:
    total = random.choice((random.randint(1, 3000), random.randint(150_000, 400_000)))
    cache_read = random.choice((0, random.randint(0, total // 2)))
    has_writes = wire not in ("gemini", "mistral", "chat", "xai", "groq", "deepseek")
    cache_write = random.randint(0, total // 3) if has_writes and random.random() < 0.5 else 0
    output = random.randint(2, 900)
    reasoning = random.choice((0, random.randint(1, output - 1))) if output > 1 else 0
    tokens = Tokens(
        input=total, cache_read=cache_read, cache_write=cache_write, output=output, reasoning=reasoning
    )
    names = list(computed_usage(wire, tokens))
    if change in ("null", "missing"):
        return Case(
            tokens=tokens, change=change, name=random.choice([n for n in names if n in INPUTS | OUTPUTS])
        )
    details = [
        name for name in names if name not in INPUTS | OUTPUTS and not name.lower().startswith("total")
    ]
    if change == "null detail" and details:
        return Case(tokens=tokens, change=change, name=random.choice(details))
    return Case(tokens=tokens, change="none" if change == "null detail" else change)


def quoted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: quoted(inner) for name, inner in value.items()}
    return str(value) if isinstance(value, int) else value


def reply_of(wire: Wire, case: Case) -> Reply:
    tokens = case.tokens
    reply = Reply(
        text="whole",
        input_tokens=tokens.input,
        cache_read_tokens=tokens.cache_read,
        cache_write_tokens=tokens.cache_write,
        output_tokens=tokens.output,
        reasoning_tokens=tokens.reasoning,
        reports_usage=case.change != "no usage",
    )
    usage = computed_usage(wire, tokens)
    match case.change:
        case "strings":
            return replace(reply, usage=quoted(usage))
        case "null" | "null detail":
            return replace(reply, usage={**usage, case.name: None})
        case "missing":
            return replace(reply, usage={name: value for name, value in usage.items() if name != case.name})
        case _:
            return reply


def faults_of(step: Step, wire: Wire, case: Case) -> list[str]:
    """What is wrong with the usage of a step."""
    usage, tokens = step.usage, case.tokens
    inputs = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens)
    outputs = (usage.output_tokens, usage.reasoning_tokens)
    known_in = None if None in inputs else sum(count or 0 for count in inputs)
    known_out = None if None in outputs else sum(count or 0 for count in outputs)
    faults: list[str] = []
    if case.is_complete and (known_in, known_out) != (tokens.input, tokens.output):
        faults.append("counts differ")
    if case.change == "no usage" and usage.cost_pico is not None:
        faults.append("a cost without usage")
    if case.change in ("null", "missing"):
        # An unknown count is not 0: the rest may be right, or unknown.
        if known_in not in (None, tokens.input):
            faults.append("input of an unknown count")
        if known_out not in (None, tokens.output):
            faults.append("output of an unknown count")
    expected = PRICE.cost(usage)
    if usage.cost_pico != expected:
        faults.append(f"cost is {usage.cost_pico}, not {expected}")
    if (usage.cost_pico is None) != (step.cost_source == "unpriced"):
        faults.append(f"cost source is {step.cost_source}")
    return [f"{wire} {case}: {fault}; {usage}" for fault in faults]


def provider_of(wire: Wire) -> str:
    """The provider of a wire that speaks its first route: with xAI's own id, opencode speaks Responses."""
    return "xai-chat" if wire == "xai" else wire


@pytest.fixture(scope="module")
def wired(opencode_binary: Path) -> Iterator[Rig]:
    rig = wired_rig(opencode_binary)
    rig.configure({"provider": {provider_of(wire): {"models": {"tiered": MODEL}} for wire in WIRES}})
    with rig:
        yield rig


@pytest.mark.slow
@pytest.mark.parametrize("wire", WIRES)
def test_tokens_and_cost_are_those_of_the_provider_or_unknown(wired: Rig, wire: Wire) -> None:
    random = Random(f"usage {wire}")
    faults: list[str] = []
    for change in (*CHANGES, "none", "strings"):
        case = random_case(random, wire, change)
        asked = wired.ask(reply_of(wire, case), model=f"{provider_of(wire)}/tiered")
        if asked.answer is None or asked.text != "whole":
            faults.append(f"{wire} {case}: {asked.error}")
            continue
        (step,) = wired.prices().priced_record(asked.attempt).steps
        faults += faults_of(step, wire, case)
    assert not faults, "\n".join(faults)
