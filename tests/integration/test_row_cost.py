"""The cost limit of a row holds by the prices of the ledger, before each request of every agent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rig import BASH, RARELY_CLI, Asked, Rig

from opencode_tasks.errors import BudgetExceededError
from opencode_tasks.opencode.backend import BackendName
from opencode_tasks.testing import Call, Reply

# USD per million tokens. Long calls cost twice as much; opencode 1.18.33 does not apply this tier.
TIERED: Mapping[str, Any] = {
    "input": 1.25,
    "output": 10,
    "cache_read": 0.125,
    "context_over_200k": {"input": 2.5, "output": 15, "cache_read": 0.25},
}
LIMIT = {"context": 500_000, "output": 4000}
MODELS = {"tiered": {"cost": TIERED, "limit": LIMIT, "tool_call": True}}
LONG_WORK = Reply(tool_calls=[BASH], input_tokens=250_000, cache_read_tokens=50_000, output_tokens=400)
LONG_PICO = 200_000 * 2_500_000 + 50_000 * 250_000 + 400 * 15_000_000
SILENT_WORK = Reply(tool_calls=[BASH], reports_usage=False)
TASK = {"description": "one thing", "prompt": "do the long thing", "subagent_type": "hand"}


@pytest.fixture(scope="module")
def row_rig(opencode_binary: Path) -> Iterator[Rig]:
    agents = {"hand": {"tools": {"*": False, "bash": True}, "permission": {"bash": "allow"}}}
    with Rig(opencode_binary, extra={"provider": {"fake": {"models": MODELS}}, "agent": agents}) as rig:
        yield rig


def real_pico(calls: Sequence[Call]) -> int:
    """Cost of calls by the price list of the provider, whose tokens are the words that it counted."""
    total = 0
    for call in calls:
        rates = TIERED["context_over_200k"] if call.input_tokens > 200_000 else TIERED
        uncached = call.input_tokens - call.cache_read_tokens
        usd = uncached * rates["input"] + call.cache_read_tokens * rates["cache_read"]
        total += int((usd + call.output_tokens * rates["output"]) * 10**6)
    return total


def check(asked: Asked, cap_pico: int, calls: int) -> None:
    """All calls but the last one are within the limit, and the error has the cost of the ledger."""
    error = asked.failed(BudgetExceededError)
    assert len(asked.calls) == calls
    assert real_pico(asked.calls[:-1]) <= cap_pico < real_pico(asked.calls)
    recorded = [step.usage.cost_pico for step in asked.attempt.steps]
    assert recorded == [real_pico([call]) for call in asked.calls]
    assert error.spent_usd == pytest.approx(real_pico(asked.calls) / 10**12)


@pytest.mark.slow
@pytest.mark.parametrize("backend", RARELY_CLI)
def test_price_tiers_of_the_config_count(row_rig: Rig, backend: BackendName) -> None:
    cap_pico = 2 * LONG_PICO
    asked = row_rig.ask(
        LONG_WORK, model="fake/tiered", agent="worker", system=None, backend=backend, max_cost_pico=cap_pico
    )
    check(asked, cap_pico, calls=3)


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_call_without_usage_counts_by_its_upper_bound(row_rig: Rig, backend: BackendName) -> None:
    # The bound of a call: some thousand bytes of input, and 4000 tokens of output.
    cap_pico = 150_000_000_000
    asked = row_rig.ask(
        SILENT_WORK, model="fake/tiered", agent="worker", system=None, backend=backend, max_cost_pico=cap_pico
    )
    error = asked.failed(BudgetExceededError)
    assert 2 <= len(asked.calls) <= 4
    assert [step.usage.cost_pico for step in asked.attempt.steps] == [None] * len(asked.calls)
    most = sum(4000 * 10_000_000 + 1_250_000 * len(str(call.body)) * 2 for call in asked.calls)
    assert cap_pico < (error.spent_usd or 0) * 10**12 <= most


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_calls_of_a_sub_agent_count_with_the_open_call_of_its_parent(
    row_rig: Rig, backend: BackendName
) -> None:
    row_rig.provider.on("do the long thing", LONG_WORK)
    # The call of the parent and the first one of the sub-agent are within the limit.
    cap_pico = 250_000 * 2_500_000 + 400 * 15_000_000 + LONG_PICO + 100_000_000_000
    replies = [
        Reply(tool_calls=[("task", TASK)], input_tokens=250_000, output_tokens=400),
        Reply(text="done"),
    ]
    before = len(row_rig.provider.calls)
    asked = row_rig.ask(
        *replies,
        model="fake/tiered",
        agent="boss",
        system=None,
        backend=backend,
        max_cost_pico=cap_pico,
    )
    calls = row_rig.provider.calls[before:]
    assert len(calls) == 3
    asked.failed(BudgetExceededError)
    assert real_pico(calls[:-1]) <= cap_pico < real_pico(calls)
    assert sum(step.usage.cost_pico or 0 for step in asked.attempt.steps) == real_pico(calls)


def test_a_model_without_a_price_is_not_called_under_a_limit(row_rig: Rig) -> None:
    asked = row_rig.ask(Reply(text="done"), model="fake/unpriced", max_cost_pico=10**12)
    assert "no price is known for fake/unpriced" in asked.failed(BudgetExceededError).raw_message
    assert not asked.calls
    free = row_rig.ask(Reply(text="done"), model="fake/free", max_cost_pico=1)
    assert free.text == "done"
