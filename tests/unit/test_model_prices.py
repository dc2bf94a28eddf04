"""Prices of models: which are known, and their tiers."""

from __future__ import annotations

from typing import Any

import pytest

from opencode_tasks.domain.max_cost import Price, Tier
from opencode_tasks.opencode.model_prices import find_unpriced, model_prices

ZERO = {"input": 0, "output": 0}
TIERED = {"input": 1, "output": 2, "context_over_200k": {"input": 3, "output": 4, "cache_write": 5}}


def listed(**costs: Any) -> dict[str, Any]:
    models = {name: {} if cost is None else {"cost": cost} for name, cost in costs.items()}
    return {"providers": [{"id": "p", "models": models}]}


def file(**models: Any) -> dict[str, Any]:
    return {"p": {"models": models}}


@pytest.mark.parametrize(
    ("own", "costs", "catalogue", "unpriced"),
    [
        # In the config without a price: opencode makes it 0.
        ({"m": {}}, {"m": ZERO}, {}, {"p/m"}),
        ({"m": None}, {"m": ZERO}, {}, {"p/m"}),
        ({"m": {}}, {"m": None}, {}, {"p/m"}),
        # A price of 0 in the config is a price.
        ({"m": {"cost": ZERO}}, {"m": ZERO}, {}, set[str]()),
        ({"a": {}, "b": {"cost": ZERO}}, {"a": ZERO, "b": ZERO}, {}, {"p/a"}),
        # The catalogue file says which of its models have a price.
        ({}, {"m": ZERO}, file(m={"cost": ZERO}), set[str]()),
        ({}, {"m": ZERO}, file(m={}), {"p/m"}),
        ({"m": {}}, {"m": ZERO}, file(m={"cost": ZERO}), set[str]()),
        ({"m": {"id": "other"}}, {"m": ZERO}, file(other={"cost": ZERO}), set[str]()),
        # The catalogue inside the binary is unknown.
        ({}, {"m": ZERO}, {}, {"p/m"}),
        # A price of the catalogue applies if the config adds to a known model.
        ({"m": {}}, {"m": {"input": 1, "output": 2}}, {}, set[str]()),
        ({"m": {}}, {"m": {"input": 0, "output": 2}}, {}, set[str]()),
    ],
)
def test_models_without_a_known_price(own: Any, costs: Any, catalogue: Any, unpriced: set[str]) -> None:
    config = {"provider": {"p": {"models": own}}}
    assert find_unpriced(config, listed(**costs), catalogue) == unpriced
    assert set(model_prices(config, listed(**costs), catalogue)).isdisjoint(unpriced)


@pytest.mark.parametrize(
    "config", [{}, {"provider": None}, {"provider": {"p": None}}, {"provider": {"p": {}}}]
)
def test_without_models_in_the_config_the_catalogue_has_the_prices(config: dict[str, Any]) -> None:
    assert find_unpriced(config, listed(m=ZERO), file(m={"cost": ZERO})) == frozenset()
    assert find_unpriced(config, {}, {}) == frozenset()


def test_tiers_that_opencode_drops_are_those_of_the_config_or_the_catalogue() -> None:
    tier = Tier(above_tokens=200_000, input=3 * 10**12, output=4 * 10**12, cache_write=5 * 10**12)
    expected = Price(input=10**12, output=2 * 10**12, over_200k=tier, in_force=False)
    plain = {"input": 1, "output": 2}
    config = {"provider": {"p": {"models": {"m": {"cost": TIERED}}}}}
    assert model_prices(config, listed(m=plain), {}) == {"p/m": expected}
    config = {"provider": {"p": {"models": {"m": {}}}}}
    assert model_prices(config, listed(m=plain), file(m={"cost": TIERED})) == {"p/m": expected}
    # The config's own price has no tiers.
    config = {"provider": {"p": {"models": {"m": {"cost": plain}}}}}
    (price,) = model_prices(config, listed(m=plain), file(m={"cost": TIERED})).values()
    assert price == Price(input=10**12, output=2 * 10**12)
