"""What a model's tokens cost, and the most that one attempt can cost. Pure.

Prices are pico-dollars for a million tokens, so that they are whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.money import usd_to_pico

MILLION = 10**6
# What opencode asks for at most, and where a model states no output limit (opencode 1.18.33).
MAX_OUTPUT_TOKENS = 32_000
# Roles and marks of the wire format around the texts.
FRAME_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Pico-dollars for a million uncached input and output tokens, and the most output of one call.

    ``cache_write`` is 0 where writing to the cache costs nothing extra. ``most_input_tokens`` is what
    the model's context holds, None where nobody states it.
    """

    input: int
    output: int
    cache_write: int = 0
    most_output_tokens: int = MAX_OUTPUT_TOKENS
    most_input_tokens: int | None = None

    def most_of_a_call(self) -> int:
        """The most, in pico-dollars, that a call in the middle of an agent's work can cost; 0 if unknown."""
        if self.most_input_tokens is None:
            return 0
        dear_input = max(self.input, self.cache_write)
        millionths = self.most_input_tokens * dear_input + self.most_output_tokens * self.output
        return -(-millionths // MILLION)

    def most(self, text_bytes: int, *, calls: int = 1) -> int:
        """The most, in pico-dollars, that ``calls`` calls over a text can cost in one session.

        A token stands for a byte at least, so bytes bound the tokens of every tokenizer; each
        further call is sent what the ones before it answered.
        """
        dear_input = max(self.input, self.cache_write)
        text = text_bytes + FRAME_TOKENS
        sent = sum(text + n * (text + self.most_output_tokens) for n in range(calls))
        millionths = sent * dear_input + calls * self.most_output_tokens * self.output
        return -(-millionths // MILLION)


def read_price(model: Mapping[str, Any], most_output_tokens: int = MAX_OUTPUT_TOKENS) -> Price:
    """The price of a model as ``GET /config/providers`` states it, in USD for a million tokens.

    ValueError where a price is not an amount of money.
    """
    cost = mapping_in(model.get("cost"))
    limits = mapping_in(model.get("limit"))
    limit = limits.get("output") or most_output_tokens
    context = limits.get("context")
    return Price(
        input=usd_to_pico(cost.get("input") or 0),
        output=usd_to_pico(cost.get("output") or 0),
        cache_write=usd_to_pico(mapping_in(cost.get("cache")).get("write") or 0),
        most_output_tokens=min(int(limit), most_output_tokens),
        most_input_tokens=int(context) if context else None,
    )
