"""Prices of the models that opencode knows, and the models that have none. Pure.

``GET /config/providers`` has a price of 0 for a model without one, and drops price tiers of models that
the config has. So the config and the catalogue are needed as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from opencode_tasks.domain.json_values import children, list_in, mapping_in, text_in
from opencode_tasks.domain.max_cost import MAX_OUTPUT_TOKENS, Price, read_price


def stated_cost(
    provider: str, model_id: str, config: Mapping[str, Any], catalogue: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """The ``cost`` of a model in the config, else in the catalogue file; None if neither has one.

    A price of 0 in one of them is a price: the model is free.
    """
    configured = _models(mapping_in(config.get("provider")), provider).get(model_id)
    entry = mapping_in(configured)
    known = mapping_in(_models(catalogue, provider).get(text_in(entry.get("id")) or model_id))
    for found in (entry, known):
        if cost := mapping_in(found.get("cost")):
            return cost
    return None


def find_unpriced(
    config: Mapping[str, Any], providers: Mapping[str, Any], catalogue: Mapping[str, Any]
) -> frozenset[str]:
    """The models without a known price: opencode reports their cost as 0.

    ``config`` is the resolved config (``GET /config``), ``providers`` the answer of
    ``GET /config/providers``. A price of 0 that neither the config nor the catalogue states is unknown, and
    so is one below 0.
    """
    return frozenset(
        f"{provider}/{model_id}"
        for provider, model_id, model in _listed(providers)
        if _is_below_zero(model.get("cost"))
        or (
            _is_zero(mapping_in(model.get("cost")))
            and stated_cost(provider, model_id, config, catalogue) is None
        )
    )


def model_prices(
    config: Mapping[str, Any],
    providers: Mapping[str, Any],
    catalogue: Mapping[str, Any],
    max_output_tokens: int = MAX_OUTPUT_TOKENS,
) -> dict[str, Price]:
    """The price of each model that has one, by ``provider/model``. Arguments as for ``find_unpriced``."""
    unpriced = find_unpriced(config, providers, catalogue)
    found: dict[str, Price] = {}
    for provider, model_id, model in _listed(providers):
        ref = f"{provider}/{model_id}"
        if ref not in unpriced:
            stated = stated_cost(provider, model_id, config, catalogue)
            found[ref] = read_price(model, max_output_tokens, stated=stated)
    return found


def _listed(providers: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for provider in map(mapping_in, list_in(providers.get("providers"))):
        for model_id, model in mapping_in(provider.get("models")).items():
            yield str(provider["id"]), model_id, mapping_in(model)


def _models(by_provider: Mapping[str, Any], provider: str) -> Mapping[str, Any]:
    return mapping_in(mapping_in(by_provider.get(provider)).get("models"))


def _is_zero(cost: Mapping[str, Any]) -> bool:
    return not cost.get("input") and not cost.get("output")


def _is_below_zero(cost: Any) -> bool:
    """Whether a price has a rate below 0, in any of its parts."""
    return any(map(_is_below_zero, children(cost))) or (isinstance(cost, int | float) and cost < 0)
