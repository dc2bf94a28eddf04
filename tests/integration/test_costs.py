"""Costs of the ledger, its views and FOCUS are exactly those of the provider."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cluster import Desk
from rig import AGENTS
from sqlalchemy import text

from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Call, Reply

ROWS = 100
LIMIT_S = 120
# USD per million tokens. A call of "tiny" costs less than a micro-dollar.
PRICES: Mapping[str, Mapping[str, float]] = {
    "tiny": {"input": 0.005, "output": 0.02, "cache_read": 0.0005},
    "plain": {"input": 1.0, "output": 5.0, "cache_read": 0.1},
    "deep": {"input": 0.3, "output": 2.5, "cache_read": 0.075},
}
TEAMS = ("support", "search")
TASK = ("task", {"description": "one thing", "prompt": "do the one thing", "subagent_type": "hand"})


def error(status: int) -> Reply:
    return Reply(status=status, body={"error": {"message": "no"}})


def needs_child_session(call: Call) -> bool:
    """Return whether a row of "deep" calls the task tool; it does so once."""
    has_result = any(message.get("role") == "tool" for message in call.body.get("messages", []))
    return call.model == "deep" and "row 09" in call.prompt and not has_result


def add_rules(desk: Desk) -> None:
    """Add rules with cache and reasoning tokens, errors, retries, an empty answer and child sessions."""
    for name, price in PRICES.items():
        limits = {"context": 100_000, "output": 1000}
        desk.provider.models[name] = {"cost": dict(price), "limit": limits, "tool_call": True}

    def on(model: str, prompt: str, *replies: Reply) -> None:
        desk.provider.on(lambda call: call.model == model and prompt in call.prompt, *replies)

    answer = Reply(text="fine", input_tokens=30, output_tokens=3)
    cached = Reply(text="fine", input_tokens=1057, cache_read_tokens=1024, output_tokens=17)
    reasoned = Reply(text="fine", input_tokens=41, output_tokens=29, reasoning_tokens=23)
    cut = Reply(text="part of", input_tokens=35, output_tokens=7, finish_reason="length")
    desk.provider.on("do the one thing", Reply(text="thing done", input_tokens=11, output_tokens=3))
    for model in PRICES:
        on(model, "row 003", error(500), answer)
        on(model, "row 013", error(400))
        on(model, "row 023", cut)
        on(model, "row 033", cut, cached)
        on(model, "row 043", error(503), error(503), error(503))
        on(model, "row 053", Reply(text=""), answer)
        on(model, "row 063", Reply(finish_reason="content_filter", input_tokens=19, output_tokens=1))
        on(model, "row 073", reasoned)
        on(model, "row 083", Reply(text="cut in two", chunks=4, cut_after=2), answer)
    desk.provider.on(needs_child_session, Reply(tool_calls=[TASK], input_tokens=50, output_tokens=5))
    desk.provider.on("row", Reply(delay_s=0.05, input_tokens=30, cache_read_tokens=8, output_tokens=4))


def pico(call: Call) -> int:
    """Return the price of a call in pico-dollars by the price list of the provider."""
    price = {name: Decimal(str(value)) for name, value in PRICES[call.model].items()}
    usd = (
        (call.input_tokens - call.cache_read_tokens) * price["input"]
        + call.cache_read_tokens * price["cache_read"]
        + call.output_tokens * price["output"]
    )
    return int(usd * 10**6)


def charged(calls: Sequence[Call]) -> dict[str, int]:
    """Return tokens and pico-dollars of all calls that were answered completely."""
    answered = [call for call in calls if call.status == 200 and call.ended]
    return {
        "input_tokens": sum(call.input_tokens - call.cache_read_tokens for call in answered),
        "cache_read_tokens": sum(call.cache_read_tokens for call in answered),
        "output_tokens": sum(call.output_tokens - call.reasoning_tokens for call in answered),
        "reasoning_tokens": sum(call.reasoning_tokens for call in answered),
        "known_cost_pico": sum(pico(call) for call in answered),
    }


@pytest.fixture
def url(request: pytest.FixtureRequest, desk: Desk) -> str:
    if request.param == "sqlite":
        return str(desk.folder / "ledger.db")
    return request.getfixturevalue("empty_postgresql")


def arguments(desk: Desk, url: str, model: str) -> list[str]:
    rows = [{"prompt": f"row {i:03}", "team": TEAMS[i % 2]} for i in range(ROWS)]
    desk.write_csv("in.csv", rows)
    named = ("--model", f"fake/{model}")
    options = desk.arguments(
        "in.csv", "-o", f"{model}.csv", "--label", "team", "--json", "--concurrency", "8", *named
    )
    config = Path(options[options.index("--opencode-config") + 1])
    config.write_text(json.dumps(json.loads(config.read_text()) | {"agent": AGENTS}))
    # In a sandbox, each row would have an opencode of its own, which takes minutes.
    agent = ["--agent", "boss", "--sandbox", "none"] if model == "deep" else []
    return [*options, "--ledger", url, *agent]


def sums(lines: Sequence[Mapping[str, Any]], like: Mapping[str, int]) -> dict[str, int]:
    return {name: sum(line[name] or 0 for line in lines) for name in like}


def views(url: str) -> dict[str, list[dict[str, Any]]]:
    names = ("day", "model", "deployment", "run", "label")
    with Ledger.open(url) as ledger, ledger._database.engine.connect() as connection:
        return {
            name: [
                dict(line) for line in connection.execute(text(f"select * from cost_by_{name}")).mappings()
            ]
            for name in names
        }


@pytest.mark.nightly
@pytest.mark.parametrize("url", ["postgresql", "sqlite"], indirect=True)
@pytest.mark.timeout(600)
def test_views_have_the_costs_of_the_provider(desk: Desk, url: str) -> None:
    add_rules(desk)
    for model in PRICES:
        ran = desk.run(*arguments(desk, url, model))
        assert ran.code == 1, ran.stderr
        rows = ran.summary["rows"]
        assert (rows["completed"], rows["failed"]) == (ROWS - 4, 4)
    expected = charged(desk.provider.calls)
    by_view = views(url)
    for name, lines in by_view.items():
        assert sums(lines, expected) == expected, name
    by_model = {line["model"].removeprefix("fake/"): line for line in by_view["model"]}
    for model, line in by_model.items():
        of_model = charged([call for call in desk.provider.calls if call.model == model])
        assert sums([line], of_model) == of_model
    assert 0 < by_model["tiny"]["known_cost_pico"] / by_model["tiny"]["steps"] < 10**6
    # Ten rows of "deep" have a child session.
    assert by_model["deep"]["steps"] - by_model["plain"]["steps"] == 2 * 10
    exported = desk.run("report", "--format", "focus", "--ledger", url)
    charges = list(csv.DictReader(io.StringIO(exported.stdout)))
    billed = sum(Decimal(charge["BilledCost"]) for charge in charges)
    assert billed * 10**12 == expected["known_cost_pico"]
    assert sum(int(charge["x_ReasoningTokens"]) for charge in charges) == expected["reasoning_tokens"]
    with Ledger.open(url) as ledger:
        # Only the cost of an interrupted stream is not reported.
        assert {line["row_id"] for line in ledger.reports.unreported()} == {"83"}
    # A second run reuses the completed rows and sends the failed ones again.
    # No other row is answered in this run, so the 503 of one row is an outage, and the run waits for its end.
    again = desk.run(*arguments(desk, url, "plain"), env={"OPENCODE_TASKS_MAX_OUTAGE_WAIT": "1"})
    assert again.summary["rows"]["reused"] == ROWS - 4
    total_pico = charged(desk.provider.calls)["known_cost_pico"]
    assert sums(views(url)["model"], {"known_cost_pico": 0}) == {"known_cost_pico": total_pico}


@pytest.mark.nightly
@pytest.mark.parametrize(
    "url",
    ["sqlite", "postgresql"],
    indirect=True,
)
@pytest.mark.timeout(600)
def test_cost_of_a_killed_and_resumed_run_is_within_the_bound(desk: Desk, url: str) -> None:
    add_rules(desk)
    with desk.start(*arguments(desk, url, "plain")) as process:
        deadline = time.monotonic() + LIMIT_S
        while len(desk.provider.calls) < 30:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.communicate(timeout=LIMIT_S)
    resumed = desk.run("resume", "--ledger", url, "--json")
    assert resumed.code == 1, resumed.stderr
    charged_pico = charged(desk.provider.calls)["known_cost_pico"]
    with Ledger.open(url) as ledger:
        (total,) = ledger.reports.spent()
        bound_pico = sum(line["at_most_pico"] for line in ledger.reports.unreported())
    assert 0 <= charged_pico - total["known_cost_pico"] <= bound_pico
    assert total["rows"] == ROWS
