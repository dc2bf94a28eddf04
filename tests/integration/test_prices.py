"""Prices of opencode's catalogue and config: models without one, tiers, thinking, and the user's own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster import Desk
from raw_provider import RawProvider
from rig import AGENTS, Rig

from opencode_tasks import OpenCodeLLM, opencode_task
from opencode_tasks.domain.records import Usage
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.opencode.model_catalogue import read_catalogue
from opencode_tasks.opencode.model_prices import find_unpriced, model_prices
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.settings import settings
from opencode_tasks.testing import Call, Reply, ScriptedProvider

# Prices of Gemini 2.5 Pro, in USD per million tokens.
TIERED: Mapping[str, Any] = {
    "input": 1.25,
    "output": 10,
    "cache_read": 0.125,
    "context_over_200k": {"input": 2.5, "output": 15, "cache_read": 0.25},
}
LIMIT = {"context": 500_000, "output": 8000}
LONG = Reply(text="fine", input_tokens=250_000, cache_read_tokens=50_000, output_tokens=8000)
LONG_PICO = 200_000 * 2_500_000 + 50_000 * 250_000 + 8000 * 15_000_000


def catalogue_model(name: str, cost: Mapping[str, Any] | None) -> dict[str, Any]:
    """A model in the form of the catalogue file."""
    flags = {"attachment": False, "reasoning": False, "temperature": True, "tool_call": True}
    model = {"id": name, "name": name, **flags, "release_date": "2026-01-01", "limit": LIMIT}
    return model if cost is None else {**model, "cost": cost}


def write_catalogue(path: Path, provider: ScriptedProvider) -> dict[str, str]:
    """Write a catalogue with the provider "shop"; returns the environment that makes opencode use it."""
    tier = {"input": 2, "output": 12, "tier": {"type": "context", "size": 128_000}}
    costs: Mapping[str, Mapping[str, Any] | None] = {
        "no-cost": None,
        "free": {"input": 0, "output": 0},
        "above-200k": TIERED,
        "tiers": {"input": 1, "output": 10, "tiers": [tier]},
        "in-config": TIERED,
    }
    shop = {
        "id": "shop",
        "name": "Shop",
        "env": ["SHOP_KEY"],
        "npm": "@ai-sdk/openai-compatible",
        "api": provider.base_url,
        "models": {name: catalogue_model(name, cost) for name, cost in costs.items()},
    }
    path.write_text(json.dumps({"shop": shop}))
    return {"OPENCODE_MODELS_PATH": str(path), "SHOP_KEY": "sk-shop"}


IN_CONFIG = {"provider": {"shop": {"models": {"in-config": {"options": {}}}}}}


@pytest.fixture(scope="module")
def shop_rig(opencode_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with pytest.MonkeyPatch.context() as patch, Rig(opencode_binary, extra=IN_CONFIG) as rig:
        for name, value in write_catalogue(tmp_path_factory.mktemp("shop") / "m.json", rig.provider).items():
            patch.setenv(name, value)
        yield rig


@pytest.mark.nightly
def test_a_price_of_0_is_known_only_if_it_is_stated(shop_rig: Rig) -> None:
    async def read() -> tuple[Any, Any]:
        server = await shop_rig.server()
        return await server.get("/config"), await server.get("/config/providers")

    config, providers = server_pool.call(read)
    catalogue = read_catalogue(shop_rig.spec.binary, ["shop", "fake"])
    unpriced = find_unpriced(config, providers, catalogue)
    assert {"shop/no-cost", "fake/unpriced"} <= unpriced
    prices = model_prices(config, providers, catalogue)
    assert {"shop/free", "shop/above-200k", "shop/tiers", "fake/free", "fake/echo"} <= set(prices)
    # opencode drops the tiers of a model that is also in the config.
    in_force = {name: prices[f"shop/{name}"].in_force for name in ("above-200k", "tiers", "in-config")}
    assert in_force == {"above-200k": True, "tiers": True, "in-config": False}
    usages = [Usage(input_tokens=200_000, cache_read_tokens=50_000, output_tokens=8000)]
    usages += [Usage(input_tokens=tokens, output_tokens=9) for tokens in (128_000, 128_001, 200_000, 200_001)]
    for model in ("above-200k", "tiers", "in-config"):
        for usage in usages:
            price = prices[f"shop/{model}"]
            asked = shop_rig.ask(reply_of(usage), model=f"shop/{model}")
            (step,) = asked.attempt.steps
            is_equal = step.usage == replace(usage, cost_pico=price.cost(usage))
            assert is_equal is price.is_reported(usage), (model, usage)


def reply_of(usage: Usage) -> Reply:
    """An answer for which the provider reports this usage."""
    cached = usage.cache_read_tokens or 0
    input_tokens = (usage.input_tokens or 0) + cached
    return Reply(
        text="fine", input_tokens=input_tokens, cache_read_tokens=cached, output_tokens=usage.output_tokens
    )


@pytest.mark.nightly
def test_a_catalogue_model_without_a_price_is_unpriced(desk: Desk) -> None:
    env = write_catalogue(desk.folder / "models.json", desk.provider)
    desk.write_csv("in.csv", [{"prompt": "row 1"}])
    ran = desk.run(*desk.arguments("in.csv", "-o", "out.csv", "--model", "shop/no-cost", "--json"), env=env)
    assert ran.code == 0, ran.stderr
    assert "the price of shop/no-cost is unknown" in ran.stderr
    (row,) = desk.read_csv("out.csv")
    assert (row["cost_usd"], row["cost_source"], int(row["output_tokens"]) > 0) == ("", "unpriced", True)
    assert ran.summary["cost_usd"] is None


def provider_pico(calls: Sequence[Call]) -> int:
    """Cost by the provider's price list, which has a price for calls above 200,000 tokens."""
    total = 0
    for call in calls:
        rates = TIERED["context_over_200k"] if call.input_tokens > 200_000 else TIERED
        millionths = (call.input_tokens - call.cache_read_tokens) * rates["input"]
        millionths += call.cache_read_tokens * rates["cache_read"] + call.output_tokens * rates["output"]
        total += int(millionths * 10**6)
    return total


@pytest.mark.slow
def test_a_budget_holds_for_prices_with_tiers(desk: Desk) -> None:
    desk.provider.models = {"echo": {"cost": TIERED, "limit": LIMIT}}
    desk.provider.on("row", LONG)
    # A provider whose tokens are single bytes.
    desk.write_csv("in.csv", [{"prompt": f"row {i} " + "x" * 249_000} for i in range(4)])
    ran = desk.annotate("in.csv", "-o", "out.jsonl", "--concurrency", "4", "--max-cost", "0.9", "--json")
    assert ran.code == 75, ran.stderr
    spent_pico = provider_pico(desk.provider.calls)
    assert (len(desk.provider.calls), spent_pico) == (1, LONG_PICO)
    assert spent_pico <= 900_000_000_000
    rows = [json.loads(line) for line in (desk.folder / "out.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row["status"] == "completed"]
    assert row["cost_usd"] == pytest.approx(LONG_PICO / 10**12)
    # opencode 1.18.33 does not apply the tiers of a config.
    assert row["cost_source"] == "computed"
    assert ran.summary["budget"]["spent_usd"] == pytest.approx(LONG_PICO / 10**12)


THINKING = {
    "reasoning": True,
    "limit": {"context": 200_000, "output": 4096},
    "variants": {"deep": {"thinking": {"type": "enabled", "budgetTokens": 5000}}},
}


@pytest.mark.nightly
def test_a_reservation_has_the_output_tokens_that_a_variant_requests(opencode_binary: Path) -> None:
    with RawProvider() as raw:
        config = raw.opencode_config()
        config["provider"]["claude"]["models"]["claude-eos"] |= THINKING
        with Rig(opencode_binary, extra=config) as rig:
            spec = replace(rig.spec, model_ref="claude/claude-eos")
            for variant, budget in (("deep", 5000), (None, 0)):
                rig.ask(model="claude/claude-eos", variant=variant, system=None)
                catalog: Catalog = server_pool.call(server_pool.catalog, spec, variant)
                assert catalog.price is not None
                requested = raw.bodies["claude-eos"]["max_tokens"]
                assert requested == catalog.price.max_output_tokens == 4096 + budget
            server_pool.call(server_pool.end_server, spec)


@pytest.fixture
def own_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A price of the user's own for a model without one."""
    own = tmp_path / "prices.json"
    own.write_text(json.dumps({"shop/no-cost": {"input": 2, "output": 10}}))
    monkeypatch.setenv("OPENCODE_TASKS_PRICES", str(own))
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


@pytest.mark.nightly
@pytest.mark.usefixtures("own_prices")
def test_a_single_prompt_is_priced_as_a_row(shop_rig: Rig) -> None:
    known = Usage(input_tokens=200_000, cache_read_tokens=50_000, output_tokens=8000)
    costs = {"in-config": LONG_PICO, "no-cost": 250_000 * 2 * 10**6 + 8000 * 10**7, "free": 0}
    for name, cost_pico in costs.items():
        prompt = f"single prompt {name}"
        shop_rig.provider.on(prompt, reply_of(known), Reply(text="fine", reports_usage=False))
        llm = OpenCodeLLM(f"shop/{name}", opencode_bin=str(shop_rig.spec.binary), config=shop_rig.spec.config)
        llm.prompt(prompt)
        assert llm.last_metadata["cost"] == pytest.approx(cost_pico / 10**12), name
        llm.prompt(prompt)
        assert llm.last_metadata["cost"] is None
        assert set(llm.last_metadata["usage"].values()) == {None}
    answer = opencode_task.fn(
        "single prompt in-config task",
        model="shop/in-config",
        opencode_bin=str(shop_rig.spec.binary),
        opencode_config=shop_rig.spec.config,
    )
    assert [step.usage.cost_pico for step in answer.attempt.steps] == [None]


@pytest.mark.slow
def test_the_catalogue_in_the_binary_says_which_models_are_free(
    opencode_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENCODE_MODELS_PATH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Rig(opencode_binary, extra={"provider": {"poe": {}}}) as rig:
        # Opencode gets the provider of the model, and that in the config.
        rig.spec = replace(rig.spec, model_ref="opencode/big-pickle")

        async def read() -> tuple[Any, Any]:
            server = await rig.server()
            return await server.get("/config"), await server.get("/provider")

        config, known = server_pool.call(read)
    providers = {"providers": [one for one in known["all"] if one["id"] in ("opencode", "poe")]}
    catalogue = read_catalogue(opencode_binary, ["opencode", "poe"])
    unpriced = find_unpriced(config, providers, catalogue)
    free = {ref for ref, price in model_prices(config, providers, catalogue).items() if not price.input}
    assert "opencode/big-pickle" in free
    assert not any(ref.startswith("opencode/") for ref in unpriced)
    # Poe has no prices of its tools.
    assert any(ref.startswith("poe/") for ref in unpriced)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["openai/gpt-4.1-mini", "openrouter/openai/gpt-4.1-mini"])
def test_opencode_knows_the_same_of_a_model_without_the_other_providers(
    opencode_binary: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    provider, _, model = name.partition("/")
    monkeypatch.delenv("OPENCODE_MODELS_PATH", raising=False)
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", "sk-test")

    def known(spec: OpencodeSpec) -> tuple[Any, int]:
        async def read() -> Any:
            try:
                return await (await server_pool.server(spec)).get("/provider")
            finally:
                await server_pool.end_server(spec)

        found = server_pool.call(read)["all"]
        return next(one for one in found if one["id"] == provider), len(found)

    spec = OpencodeSpec(binary=opencode_binary)
    whole, count = known(spec)
    needed, count_of_needed = known(replace(spec, model_ref=name))
    assert count > 100 > count_of_needed
    assert needed["models"][model] == whole["models"][model]
    assert list(needed["models"]) == list(whole["models"])


@pytest.mark.nightly
def test_own_prices_bound_the_further_calls_of_an_agent(desk: Desk) -> None:
    prices = desk.folder / "prices.json"
    prices.write_text(json.dumps({"fake/unpriced": {"input": 2, "output": 10, "cache_write": 4}}))
    desk.provider.on("row", Reply(text="fine", reports_usage=False))
    desk.write_csv("in.csv", [{"prompt": "row 1"}])
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--model", "fake/unpriced", "--agent", "worker")
    config = Path(arguments[arguments.index("--opencode-config") + 1])
    config.write_text(json.dumps(json.loads(config.read_text()) | {"agent": AGENTS}))
    ran = desk.run(*arguments, "--max-cost", "1", env={"OPENCODE_TASKS_PRICES": str(prices)})
    assert ran.code == 0, ran.stderr
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        (unreported,) = ledger.reports.unreported()
    # 128,000 tokens of context, all written to a cache, and 4,096 tokens of output.
    assert unreported["at_most_pico"] == 128_000 * 4 * 10**6 + 4096 * 10 * 10**6
