"""What a step costs by public prices and by one's own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from opencode_tasks.domain.cost import CONFIGURED, OWN, PriceBook, public_cost, read_own_prices
from opencode_tasks.domain.max_cost import Price, Tier
from opencode_tasks.domain.records import CostSource, Step, Usage

AT = datetime(2026, 11, 1, tzinfo=UTC)
FULL = Usage(
    input_tokens=700, cache_read_tokens=200, cache_write_tokens=100, output_tokens=60, reasoning_tokens=40
)


def step(model_ref: str, cost: int | None, source: CostSource, usage: Usage = FULL) -> Step:
    known = {name: getattr(usage, name) for name in ("input_tokens", "output_tokens", "reasoning_tokens")}
    known |= {name: getattr(usage, name) for name in ("cache_read_tokens", "cache_write_tokens")}
    return Step(
        step_id="prt_1",
        session_id="ses_1",
        message_id="msg_1",
        model_ref=model_ref,
        agent="a",
        usage=Usage(**known, cost_pico=cost),
        cost_source=source,
        finish_reason="stop",
        ended_at=AT,
    )


def test_a_public_price_counts_cache_and_reasoning_by_their_own_rules() -> None:
    """Claude Haiku 4.5: 1 USD in, 0.1 read, 1.25 written, 5 out (a million), by genai-prices."""
    cost, source = public_cost("anthropic/claude-haiku-4-5", FULL, AT)
    assert cost == (700 * 1_000_000) + (200 * 100_000) + (100 * 1_250_000) + (100 * 5_000_000)
    assert source is not None
    assert source.startswith("genai-prices ")


@pytest.mark.parametrize(
    ("model_ref", "usage", "at"),
    [
        ("fake/claude-haiku-4-5", FULL, AT),
        ("anthropic/no-such-model", FULL, AT),
        ("anthropic", FULL, AT),
        ("anthropic/claude-haiku-4-5", Usage(input_tokens=None), AT),
        ("anthropic/claude-haiku-4-5", FULL, None),
    ],
)
def test_what_nobody_states_is_unknown(model_ref: str, usage: Usage, at: datetime | None) -> None:
    assert public_cost(model_ref, usage, at) == (None, None)


def test_opencodes_name_of_a_provider_is_translated() -> None:
    grok, _ = public_cost("xai/grok-3", FULL, AT)
    assert grok is not None


def test_a_report_stands_and_the_computed_cost_beside_it() -> None:
    told = PriceBook().priced(step("anthropic/claude-haiku-4-5", 5, "reported"))
    assert (told.usage.cost_pico, told.cost_source, told.cost_reported_pico) == (5, "reported", 5)
    assert told.cost_computed_pico == 1_345_000_000


def test_a_cost_that_opencode_does_not_know_is_computed() -> None:
    told = PriceBook().priced(step("anthropic/claude-haiku-4-5", None, "unpriced"))
    assert (told.usage.cost_pico, told.cost_source) == (1_345_000_000, "computed")
    assert told.cost_reported_pico is None
    unknown = PriceBook().priced(step("fake/model", None, "unpriced"))
    assert (unknown.usage.cost_pico, unknown.cost_source, unknown.price_source) == (None, "unpriced", None)


def test_an_own_price_goes_before_the_public_one() -> None:
    prices, faults = read_own_prices({"anthropic/claude-haiku-4-5": {"input": 2, "output": "0.000001"}}, "p")
    assert faults == []
    told = PriceBook(prices).priced(step("anthropic/claude-haiku-4-5", None, "unpriced"))
    # Cached input costs as input and reasoning as output where nothing else is said.
    assert told.usage.cost_pico == 1000 * 2_000_000 + 100 * 1
    assert told.price_source == OWN


def test_an_own_price_bounds_what_a_row_can_cost() -> None:
    prices, _ = read_own_prices({"a/b": {"input": 1, "output": 10, "reasoning": 20, "cache_write": 2}}, "p")
    price = PriceBook(prices).price_of("a/b", 100)
    assert price is not None
    assert (price.output, price.cache_write, price.max_output_tokens) == (20 * 10**12, 2 * 10**12, 100)
    assert PriceBook(prices).price_of("a/c", 100) is None


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ([], "not of the form"),
        ({"a/b": {"input": 1}}, "no price for 'output' tokens"),
        ({"a/b": {"input": 1, "output": "much"}}, "not an amount of money"),
        ({"a/b": {"input": -1, "output": 1}}, "below 0"),
        ({"a/b": {"input": 1, "output": 1, "cached": 1}}, "'cached' is none of"),
        ({"ab": {"input": 1, "output": 1}}, "'ab' is not of the form provider/model"),
    ],
)
def test_a_fault_in_own_prices_is_told(told: Any, words: str) -> None:
    _, (fault,) = read_own_prices(told, "prices.json")
    assert fault.startswith("prices.json: ")
    assert words in fault


def test_the_price_of_opencode_is_for_steps_whose_reported_cost_is_missing_or_without_its_tier() -> None:
    price = Price(input=10**12, output=10**12)
    tier = Tier(above_tokens=500, input=2 * 10**12, output=2 * 10**12)
    book = PriceBook(configured={"p/plain": price, "p/tiers": replace(price, tiers=(tier,), in_force=False)})
    # FULL has 700 input, 200 and 100 cached, 60 output and 40 reasoning tokens.
    missing = book.priced(step("p/plain", None, "unpriced"))
    assert (missing.usage.cost_pico, missing.cost_source) == (800 * 10**6, "computed")
    assert missing.price_source == CONFIGURED
    reported = book.priced(step("p/plain", 5, "reported"))
    assert (reported.usage.cost_pico, reported.cost_source) == (5, "reported")
    short = book.priced(step("p/tiers", 5, "reported"))
    assert (short.usage.cost_pico, short.cost_source) == (1600 * 10**6, "computed")
    own = PriceBook(read_own_prices({"p/tiers": {"input": 3, "output": 3}}, "p")[0], book.configured)
    assert own.priced(step("p/tiers", 5, "reported")).usage.cost_pico == 3 * 1100 * 10**6
    unknown = book.priced(step("p/plain", None, "unpriced", Usage(output_tokens=None)))
    assert (unknown.usage.cost_pico, unknown.cost_source) == (None, "unpriced")
