"""What one attempt can cost at most."""

from __future__ import annotations

from typing import Any

import pytest

from opencode_tasks.domain.max_cost import (
    FRAME_TOKENS,
    MAX_INPUT_TOKENS,
    MAX_OUTPUT_TOKENS,
    Price,
    Tier,
    read_price,
    thinking_tokens,
)
from opencode_tasks.domain.records import Usage

STATED = {"input": 3, "output": 15, "cache": {"read": 0.3, "write": 3.75}}


def test_a_price_is_read_as_opencode_states_it() -> None:
    price = read_price({"cost": STATED, "limit": {"context": 200_000, "output": 8000}})
    assert price == Price(
        input=3 * 10**12,
        output=15 * 10**12,
        cache_read=300_000_000_000,
        cache_write=3_750_000_000_000,
        max_output_tokens=8000,
        max_input_tokens=200_000,
    )


@pytest.mark.parametrize("limit", [{}, {"output": 0}, {"output": 64_000}])
def test_opencode_never_asks_for_more_than_its_own_limit(limit: dict[str, int]) -> None:
    assert read_price({"cost": STATED, "limit": limit}).max_output_tokens == MAX_OUTPUT_TOKENS
    assert read_price({"cost": STATED, "limit": limit}, 500).max_output_tokens == 500


def test_every_byte_may_be_a_token_and_the_dearer_input_price_holds() -> None:
    price = Price(input=3 * 10**12, output=15 * 10**12, cache_write=4 * 10**12, max_output_tokens=100)
    once = (1000 + FRAME_TOKENS) * 4 * 10**6 + 100 * 15 * 10**6
    assert price.max_cost(1000) == once
    # The second call also has the first answer and the request for a better one.
    assert price.max_cost(1000, calls=2) == 2 * once + (1000 + FRAME_TOKENS + 100) * 4 * 10**6


def test_a_part_of_a_pico_dollar_is_rounded_up() -> None:
    assert Price(input=1, output=0, max_output_tokens=1).max_cost(0) == 1
    assert Price(input=0, output=0).max_cost(10**6) == 0


PICO = 10**12
# In the form of ``GET /config/providers``.
SERVED = {
    "input": 1,
    "output": 10,
    "cache": {"read": 0.5, "write": 0},
    "tiers": [
        {
            "input": 2,
            "output": 12,
            "cache": {"read": 1, "write": 0},
            "tier": {"type": "context", "size": 300},
        },
        {"input": 3, "output": 9, "cache": {"read": 1, "write": 4}, "tier": {"type": "context", "size": 900}},
    ],
    "experimentalOver200K": {"input": 7, "output": 7, "cache": {"read": 0, "write": 0}},
}


@pytest.mark.parametrize(
    ("input_tokens", "cached", "millionths"),
    [
        (300, 0, 300 * 1 + 10 * 10),
        (301, 0, 301 * 2 + 10 * 12),
        # Cached input counts towards the size of a call.
        (200, 101, 200 * 2 + 101 * 1 + 10 * 12),
        (900, 0, 900 * 2 + 10 * 12),
        (901, 0, 901 * 3 + 10 * 9),
        # The price above 200,000 tokens is that of models without tiers.
        (200_001, 0, 200_001 * 3 + 10 * 9),
    ],
)
def test_a_call_costs_what_its_tier_says(input_tokens: int, cached: int, millionths: int) -> None:
    price = read_price({"cost": SERVED})
    usage = Usage(input_tokens=input_tokens, cache_read_tokens=cached, output_tokens=4, reasoning_tokens=6)
    assert price.cost(usage) == millionths * 10**6
    assert price.cost(Usage(output_tokens=None)) is None


def test_the_maximum_is_that_of_every_tier_that_the_call_can_reach() -> None:
    price = read_price({"cost": SERVED, "limit": {"output": 100, "context": 2000}})
    # 256 tokens of the frame; a token has at least one byte.
    assert price.max_cost(44) == (300 * 1 + 100 * 10) * 10**6
    assert price.max_cost(45) == (301 * 2 + 100 * 12) * 10**6
    # The last tier has the most expensive input (cache writes), the one before it the output.
    assert price.max_cost(1000) == (1256 * 4 + 100 * 12) * 10**6
    assert price.max_call_cost() == (2000 * 4 + 100 * 12) * 10**6


def test_above_200k_is_the_price_of_long_calls_of_a_model_without_tiers() -> None:
    cost = {"input": 1.25, "output": 10, "cache": {"read": 0.125, "write": 0}}
    long = {"input": 2.5, "output": 15, "cache": {"read": 0.25, "write": 0}}
    price = read_price({"cost": {**cost, "experimentalOver200K": long}, "limit": {"output": 8000}})
    assert price.max_cost(250_000) == int((250_256 * 2.5 + 8000 * 15) * 10**6)
    assert price.cost(Usage(input_tokens=250_000, output_tokens=8000)) == 745_000_000_000
    assert price.cost(Usage(input_tokens=200_000)) == 250_000_000_000
    assert price.is_reported(Usage(input_tokens=250_000))


def test_a_cost_without_the_tier_is_not_the_price() -> None:
    tier = {"input": 2, "output": 2}
    price = read_price({"cost": {"input": 1, "output": 1}}, stated={"context_over_200k": tier})
    assert not price.in_force
    assert price.is_reported(Usage(input_tokens=200_000))
    assert not price.is_reported(Usage(input_tokens=100_000, cache_read_tokens=100_001))
    assert price.over_200k == Tier(above_tokens=200_000, input=2 * PICO, output=2 * PICO)


def test_a_call_of_a_model_with_an_unknown_context_has_a_maximum() -> None:
    price = Price(input=2, output=3, max_output_tokens=10**6)
    assert price.max_call_cost() == 2 * MAX_INPUT_TOKENS // 10**6 + 3


def budget(tokens: Any, kind: str = "enabled") -> dict[str, Any]:
    return {"thinking": {"type": kind, "budgetTokens": tokens}}


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ([], 0),
        ([{}, {}, {}], 0),
        ([budget(16_000)], 16_000),
        ([{}, {}, {"reasoningConfig": {"type": "enabled", "budgetTokens": 5000}}], 5000),
        # The variant has precedence over the agent, and that over the model.
        ([budget(1), budget(2), budget(3)], 3),
        ([budget(1), budget(2), {"temperature": 1}], 2),
        ([budget(1), {}, budget(0, "disabled")], 0),
        ([budget(1), {}, {"thinking": {"type": "adaptive"}}], 0),
        ([{"thinking": {"type": "enabled"}}], 1024),
        ([{"thinking": {"type": "enabled", "budget_tokens": 7}}], 7),
        ([{"thinking": "enabled"}], 0),
    ],
)
def test_tokens_for_thinking_are_requested_on_top(options: list[dict[str, Any]], tokens: int) -> None:
    assert thinking_tokens(*options) == tokens
    limit = {"limit": {"output": 64_000}}
    assert read_price(limit, thinking_tokens=tokens).max_output_tokens == 32_000 + tokens
