"""What one attempt can cost at most."""

from __future__ import annotations

import pytest

from opencode_tasks.domain.max_cost import FRAME_TOKENS, MAX_OUTPUT_TOKENS, Price, read_price

STATED = {"input": 3, "output": 15, "cache": {"read": 0.3, "write": 3.75}}


def test_a_price_is_read_as_opencode_states_it() -> None:
    price = read_price({"cost": STATED, "limit": {"context": 200_000, "output": 8000}})
    assert price == Price(
        input=3 * 10**12,
        output=15 * 10**12,
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
