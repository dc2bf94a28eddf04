"""Cost of a model call by public prices and by the user's own prices. Pure.

Public prices come from genai-prices (https://github.com/pydantic/genai-prices), which has their history:
a step is priced as of the day on which it ended. The price is that of the provider itself, never of
another provider with a model of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from typing import Any

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.max_cost import MAX_OUTPUT_TOKENS, MILLION, Price, Tier
from opencode_tasks.domain.money import call_cost, usd_to_pico
from opencode_tasks.domain.records import AttemptRecord, Step, Usage
from opencode_tasks.domain.text import none_of

# Provider ids of opencode (models.dev) that have another name in genai-prices.
PUBLIC_NAMES = {
    "amazon-bedrock": "aws",
    "xai": "x-ai",
    "google-vertex": "google",
    "togetherai": "together",
    "fireworks-ai": "fireworks",
    "azure-cognitive-services": "azure",
    "cloudflare-workers-ai": "cloudflare",
    "novita-ai": "novita",
    "zhipuai-coding-plan": "zhipuai",
}
KINDS = ("input", "output", "cache_read", "cache_write", "reasoning")
OWN = "own prices"
CONFIGURED = "opencode's prices"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPrice:
    """A user's price of a model, in pico-dollars per million tokens of each kind."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int

    def cost(self, usage: Usage) -> int | None:
        """Cost of a step in pico-dollars, with half a pico-dollar rounded up; None if a count is unknown."""
        counts = [getattr(usage, f"{kind}_tokens") for kind in KINDS]
        if None in counts:
            return None
        millionths = sum(count * getattr(self, kind) for count, kind in zip(counts, KINDS, strict=True))
        return (millionths + MILLION // 2) // MILLION


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Prices for computed costs: the user's own by ``provider/model``, else the public ones.

    ``configured`` are the prices that opencode has, for steps whose reported cost is missing or wrong.
    """

    own: Mapping[str, OwnPrice] = field(default_factory=dict[str, OwnPrice])
    configured: Mapping[str, Price] = field(default_factory=dict[str, Price])

    def priced_record(self, record: AttemptRecord) -> AttemptRecord:
        """Return the record with all its steps priced."""
        sessions = [
            replace(session, steps=[self.priced(step) for step in session.steps])
            for session in record.sessions
        ]
        return replace(record, sessions=sessions)

    def priced(self, step: Step) -> Step:
        """Return the step with its computed cost.

        It is also its cost if opencode reports none, or one without the tiers of the price.
        """
        configured = self.configured.get(step.model_ref)
        is_reported = step.usage.cost_pico is not None and (
            configured is None or configured.is_reported(step.usage)
        )
        if not is_reported and configured is not None and step.model_ref not in self.own:
            computed, source = configured.cost(step.usage), CONFIGURED
        else:
            computed, source = self.cost_of(step.model_ref, step.usage, step.ended_at)
        computed = None if computed is None else call_cost(computed)
        if computed is None:
            return step
        priced = replace(step, cost_computed_pico=computed, price_source=source)
        if is_reported:
            return priced
        return replace(priced, usage=replace(step.usage, cost_pico=computed), cost_source="computed")

    def price_of(
        self, model_ref: str, max_output_tokens: int, max_input_tokens: int | None = None
    ) -> Price | None:
        """The user's own price of a model, to compute the maximum cost of an attempt; None without one.

        The limits are those of one call; ``max_input_tokens`` None is unknown.
        """
        own = self.own.get(model_ref)
        if own is None:
            return None
        return Price(
            input=max(own.input, own.cache_read),
            output=max(own.output, own.reasoning),
            cache_write=own.cache_write,
            max_output_tokens=max_output_tokens,
            max_input_tokens=max_input_tokens,
        )

    def price_list(self) -> dict[str, Any]:
        """The prices of all models by ``provider/model``, as JSON values for the opencode plugin."""
        found = {ref: {**_listed(price), "is_reported": True} for ref, price in self.configured.items()}
        for ref, own in self.own.items():
            rates = {kind: getattr(own, kind) for kind in KINDS}
            price = self.price_of(ref, MAX_OUTPUT_TOKENS)
            assert price is not None
            unreported = {**_listed(price), "base": rates, "is_reported": False}
            found[ref] = {**found.get(ref, unreported), "own": rates}
        return found

    def cost_of(self, model_ref: str, usage: Usage, at: datetime | None) -> tuple[int | None, str | None]:
        """Cost in pico-dollars and the source of the price; both None if no price is known."""
        if (own := self.own.get(model_ref)) is not None:
            return own.cost(usage), OWN
        return public_cost(model_ref, usage, at)


def _listed(price: Price) -> dict[str, Any]:
    """A price for the opencode plugin; see ``opencode/plugin/cost.js``."""
    return {
        "base": _rates(price),
        "tiers": [_rates(tier) for tier in price.tiers],
        "over200k": None if price.over_200k is None else _rates(price.over_200k),
        "own": None,
        "in_force": price.in_force,
        "max_output_tokens": price.max_output_tokens,
        "max_input_tokens": price.max_input_tokens,
    }


def _rates(rates: Price | Tier) -> dict[str, int]:
    kinds = {kind: getattr(rates, kind) for kind in KINDS if kind != "reasoning"}
    above = {"above_tokens": rates.above_tokens} if isinstance(rates, Tier) else {}
    # opencode has no price for reasoning: it counts as output.
    return {**kinds, "reasoning": rates.output, **above}


def public_cost(model_ref: str, usage: Usage, at: datetime | None) -> tuple[int | None, str | None]:
    """Cost by genai-prices on the day ``at`` in pico-dollars, and its version; both None without a price."""
    from genai_prices import Usage as PublicUsage
    from genai_prices import calc_price

    provider, _, model = model_ref.partition("/")
    public = PUBLIC_NAMES.get(provider, provider)
    cached = (usage.cache_read_tokens, usage.cache_write_tokens)
    counts = (usage.input_tokens, *cached, usage.output_tokens, usage.reasoning_tokens)
    if public not in _public_providers() or at is None or None in counts:
        return None, None
    read, write = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    # As in OpenTelemetry, its input tokens include the cached ones and its output tokens the reasoning ones.
    public_usage = PublicUsage(
        input_tokens=(usage.input_tokens or 0) + read + write,
        cache_read_tokens=read,
        cache_write_tokens=write,
        output_tokens=(usage.output_tokens or 0) + (usage.reasoning_tokens or 0),
    )
    try:
        price = calc_price(public_usage, model, provider_id=public, genai_request_timestamp=at)
    except (LookupError, ValueError):
        return None, None
    return usd_to_pico(Decimal(price.total_price)), f"genai-prices {_public_version()}"


@cache
def _public_providers() -> frozenset[str]:
    from genai_prices.data import providers

    return frozenset(provider.id for provider in providers)


@cache
def _public_version() -> str:
    return version("genai-prices")


def read_own_prices(value: Any, name: str) -> tuple[dict[str, OwnPrice], list[str]]:
    """Read the user's prices by ``provider/model`` from JSON; return them and one line for each fault.

    A price has the fields of opencode's configuration, in USD per million tokens: ``input`` and
    ``output``, and optionally ``cache_read``, ``cache_write`` (default: ``input``) and ``reasoning``
    (default: ``output``). ``name`` is the name of the file in messages.
    """
    if not isinstance(value, Mapping):
        return {}, [f'{name}: not of the form {{"provider/model": {{"input": USD, "output": USD}}}}']
    found: dict[str, OwnPrice] = {}
    faults: list[str] = []
    for ref, price in mapping_in(value).items():
        try:
            found[str(ref)] = _own_price(mapping_in(price))
        except (KeyError, ValueError) as error:
            faults.append(f"{name}: {ref}: {_fault(error)}")
        if not all(str(ref).partition("/")):
            faults.append(f"{name}: {str(ref)!r} is not of the form provider/model")
    return found, faults


def _own_price(price: Mapping[str, Any]) -> OwnPrice:
    if unknown := sorted(set(price) - set(KINDS)):
        raise ValueError(none_of(unknown[0], KINDS))
    base = {"cache_read": "input", "cache_write": "input", "reasoning": "output"}
    prices = {kind: usd_to_pico(price[kind if kind in price else base.get(kind, kind)]) for kind in KINDS}
    if min(prices.values()) < 0:
        raise ValueError("a price below 0")
    return OwnPrice(**prices)


def _fault(error: Exception) -> str:
    return f"no price for {error.args[0]!r} tokens" if isinstance(error, KeyError) else str(error)
