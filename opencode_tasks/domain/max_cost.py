"""Price of a model with its tiers, the cost of a call, and the maximum cost of an attempt. Pure.

Prices are in pico-dollars per million tokens, so that they are integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opencode_tasks.domain.json_values import list_in, mapping_in
from opencode_tasks.domain.money import usd_to_pico
from opencode_tasks.domain.records import TOKEN_COLUMNS, Usage

MILLION = 10**6
# Maximum output that opencode 1.18.33 requests, also if a model has no output limit.
MAX_OUTPUT_TOKENS = 32_000
# Context of a model that states none: more than models have today.
MAX_INPUT_TOKENS = 2_000_000
# Allowance for roles and other tokens that the wire format adds to the texts.
FRAME_TOKENS = 256
OVER_200K_TOKENS = 200_000
# Budget of the AI SDK's Anthropic package for thinking that is enabled without one.
DEFAULT_THINKING_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Prices of calls with more input than ``above_tokens``, cached input included."""

    above_tokens: int
    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Price of a model in pico-dollars per million tokens, and the limits of one call.

    ``input`` is the price of uncached input. ``cache_read`` and ``cache_write`` are 0 if opencode has no
    such price. ``tiers`` are the prices of long calls by size; ``over_200k`` applies to a call that is in
    none of them. ``max_output_tokens`` is the maximum output of a call, thinking included,
    ``max_input_tokens`` the size of the model's context; None if it is unknown. ``in_force`` is False if
    opencode does not apply the tiers, so that its costs are too low.
    """

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    tiers: tuple[Tier, ...] = ()
    over_200k: Tier | None = None
    max_output_tokens: int = MAX_OUTPUT_TOKENS
    max_input_tokens: int | None = None
    in_force: bool = True

    def cost(self, usage: Usage) -> int | None:
        """Cost of a call in pico-dollars, by the rules of opencode; None if a count is unknown."""
        counts = {name: getattr(usage, name) for name in TOKEN_COLUMNS}
        if None in counts.values():
            return None
        read, cached, written, output, reasoning = (counts[name] for name in TOKEN_COLUMNS)
        rates = self._tier_of(read + cached + written)
        millionths = read * rates.input + cached * rates.cache_read + written * rates.cache_write
        millionths += (output + reasoning) * rates.output
        return (millionths + MILLION // 2) // MILLION

    def is_reported(self, usage: Usage) -> bool:
        """Whether the cost that opencode reports for a call is by this price."""
        counts = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens)
        return self.in_force or self._tier_of(sum(count or 0 for count in counts)) == self._base()

    def max_call_cost(self) -> int:
        """Maximum cost, in pico-dollars, of a call in the middle of an agent's work."""
        return self._max_call_pico(self.max_input_tokens or MAX_INPUT_TOKENS)

    def max_cost(self, text_bytes: int, *, calls: int = 1, frame_tokens: int = FRAME_TOKENS) -> int:
        """Maximum cost, in pico-dollars, of ``calls`` calls with a text in one session.

        A token has at least one byte, so the number of bytes is an upper bound for every tokenizer. The
        input of each further call includes the answers of the earlier ones. ``frame_tokens`` is the
        allowance for tokens that the wire format adds.
        """
        text = text_bytes + frame_tokens
        sent = [text + n * (text + self.max_output_tokens) for n in range(calls)]
        return sum(self._max_call_pico(tokens) for tokens in sent)

    def _base(self) -> Tier:
        return Tier(
            above_tokens=0,
            input=self.input,
            output=self.output,
            cache_read=self.cache_read,
            cache_write=self.cache_write,
        )

    def _tier_of(self, input_tokens: int) -> Tier:
        reached = [tier for tier in self.tiers if input_tokens > tier.above_tokens]
        if reached:
            return max(reached, key=lambda tier: tier.above_tokens)
        if self.over_200k is not None and input_tokens > self.over_200k.above_tokens:
            return self.over_200k
        return self._base()

    def _max_call_pico(self, input_tokens: int) -> int:
        """Maximum cost of a call with up to this input: a tier that it can reach may be cheaper or not."""
        extra = () if self.over_200k is None else (self.over_200k,)
        reached = [tier for tier in (*self.tiers, *extra) if input_tokens > tier.above_tokens]
        rates = [self._base(), *reached]
        input_price = max(max(one.input, one.cache_read, one.cache_write) for one in rates)
        output_price = max(one.output for one in rates)
        return -(-(input_tokens * input_price + self.max_output_tokens * output_price) // MILLION)


def read_price(
    model: Mapping[str, Any],
    max_output_tokens: int = MAX_OUTPUT_TOKENS,
    *,
    stated: Mapping[str, Any] | None = None,
    thinking_tokens: int = 0,
) -> Price:
    """The price of a model in ``GET /config/providers``, which is in USD per million tokens.

    ``stated`` is the ``cost`` of the model in the config or the catalogue file, whose tiers opencode
    1.18.33 drops for each model that the config has; None if there is none. ``thinking_tokens`` are
    requested in addition to the output limit. Raises ValueError if a price is not an amount of money.
    """
    cost, stated = mapping_in(model.get("cost")), mapping_in(stated)
    limits = mapping_in(model.get("limit"))
    limit = limits.get("output") or max_output_tokens
    context = limits.get("context")
    cache = mapping_in(cost.get("cache"))
    tiers = _tiers(list_in(cost.get("tiers")))
    over_200k = _over_200k(mapping_in(cost.get("experimentalOver200K")))
    in_force = bool(tiers) or over_200k is not None
    if not in_force:
        tiers = _tiers(list_in(stated.get("tiers")))
        over_200k = _over_200k(mapping_in(stated.get("context_over_200k")))
    return Price(
        input=usd_to_pico(cost.get("input") or 0),
        output=usd_to_pico(cost.get("output") or 0),
        cache_read=usd_to_pico(cache.get("read") or 0),
        cache_write=usd_to_pico(cache.get("write") or 0),
        tiers=tiers,
        over_200k=over_200k,
        max_output_tokens=min(int(limit), max_output_tokens) + thinking_tokens,
        max_input_tokens=int(context) if context else None,
        in_force=in_force or not (tiers or over_200k),
    )


def _tiers(found: Sequence[Any]) -> tuple[Tier, ...]:
    tiers: list[Tier] = []
    for rates in map(mapping_in, found):
        tier = mapping_in(rates.get("tier"))
        size = tier.get("size")
        if tier.get("type") == "context" and isinstance(size, (int, float)):
            tiers.append(_tier(rates, int(size)))
    return tuple(tiers)


def _over_200k(rates: Mapping[str, Any]) -> Tier | None:
    return _tier(rates, OVER_200K_TOKENS) if rates else None


def _tier(rates: Mapping[str, Any], above_tokens: int) -> Tier:
    """A tier in the form of the server (``cache``) or of the config (``cache_read``, ``cache_write``)."""
    cache = mapping_in(rates.get("cache"))
    return Tier(
        above_tokens=above_tokens,
        input=usd_to_pico(rates.get("input") or 0),
        output=usd_to_pico(rates.get("output") or 0),
        cache_read=usd_to_pico(cache.get("read") or rates.get("cache_read") or 0),
        cache_write=usd_to_pico(cache.get("write") or rates.get("cache_write") or 0),
    )


def thinking_tokens(*options: Mapping[str, Any]) -> int:
    """Tokens that the AI SDK requests for thinking in addition to the output limit.

    ``options`` are those of the model, the agent and the variant; later ones have precedence. The
    packages for Anthropic's models (also on Bedrock and Vertex) send the sum of both. Other packages
    count thinking inside the limit: for them the result is too high at most.
    """
    found = 0
    for one in options:
        for name in ("thinking", "reasoningConfig", "reasoning_config"):
            if name in one:
                found = _thinking_budget(mapping_in(one[name]))
    return found


def _thinking_budget(thinking: Mapping[str, Any]) -> int:
    if thinking.get("type") != "enabled":
        return 0
    budget = thinking.get("budgetTokens", thinking.get("budget_tokens"))
    return int(budget) if isinstance(budget, (int, float)) else DEFAULT_THINKING_TOKENS
