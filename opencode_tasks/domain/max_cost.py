"""Price of a model, and the maximum cost of an attempt. Pure.

Prices are in pico-dollars per million tokens, so that they are integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.money import usd_to_pico

MILLION = 10**6
# Maximum output that opencode 1.18.33 requests, also if a model has no output limit.
MAX_OUTPUT_TOKENS = 32_000
# Allowance for roles and other tokens that the wire format adds to the texts.
FRAME_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Price of a model in pico-dollars per million tokens, and the limits of one call.

    ``input`` is the price of uncached input. ``cache_write`` is 0 if cache writes have no price.
    ``max_output_tokens`` is the maximum output of a call, ``max_input_tokens`` the size of the model's
    context; None if it is unknown.
    """

    input: int
    output: int
    cache_write: int = 0
    max_output_tokens: int = MAX_OUTPUT_TOKENS
    max_input_tokens: int | None = None

    def max_call_cost(self) -> int:
        """Maximum cost, in pico-dollars, of a call in the middle of an agent's work; 0 if it is unknown."""
        if self.max_input_tokens is None:
            return 0
        input_price = max(self.input, self.cache_write)
        millionths = self.max_input_tokens * input_price + self.max_output_tokens * self.output
        return -(-millionths // MILLION)

    def max_cost(self, text_bytes: int, *, calls: int = 1) -> int:
        """Maximum cost, in pico-dollars, of ``calls`` calls with a text in one session.

        A token has at least one byte, so the number of bytes is an upper bound for every tokenizer. The
        input of each further call includes the answers of the earlier ones.
        """
        input_price = max(self.input, self.cache_write)
        text = text_bytes + FRAME_TOKENS
        sent = sum(text + n * (text + self.max_output_tokens) for n in range(calls))
        millionths = sent * input_price + calls * self.max_output_tokens * self.output
        return -(-millionths // MILLION)


def read_price(model: Mapping[str, Any], max_output_tokens: int = MAX_OUTPUT_TOKENS) -> Price:
    """The price of a model in ``GET /config/providers``, which is in USD per million tokens.

    Raises ValueError if a price is not an amount of money.
    """
    cost = mapping_in(model.get("cost"))
    limits = mapping_in(model.get("limit"))
    limit = limits.get("output") or max_output_tokens
    context = limits.get("context")
    return Price(
        input=usd_to_pico(cost.get("input") or 0),
        output=usd_to_pico(cost.get("output") or 0),
        cache_write=usd_to_pico(mapping_in(cost.get("cache")).get("write") or 0),
        max_output_tokens=min(int(limit), max_output_tokens),
        max_input_tokens=int(context) if context else None,
    )
