"""Usage as providers report it: complete, in other forms, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cluster import Desk
from raw_provider import MODELS, RawProvider
from rig import Asked, Rig

from opencode_tasks.domain.records import Usage
from opencode_tasks.errors import ServerError
from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Reply

# Prices of "fake/echo" in pico-dollars per token.
INPUT, CACHED, OUTPUT = 1_000_000, 100_000, 2_000_000
UNKNOWN = Usage(**dict.fromkeys(Usage.__slots__))


def usage(
    prompt: Any, completion: Any, total: Any = None, *, cached: Any = None, reasoning: Any = None
) -> Any:
    """A usage object in the form of OpenAI's chat completions."""
    found: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    if cached is not None:
        found["prompt_tokens_details"] = {"cached_tokens": cached}
    if reasoning is not None:
        found["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return found


def counted(read: int, cached: int, output: int, reasoning: int = 0) -> Usage:
    """Usage of "fake/echo" with its cost."""
    return Usage(
        input_tokens=read,
        cache_read_tokens=cached,
        output_tokens=output,
        reasoning_tokens=reasoning,
        cost_pico=read * INPUT + cached * CACHED + (output + reasoning) * OUTPUT,
    )


REPORTED: Mapping[str, tuple[Any, Usage]] = {
    # xAI, and Google's OpenAI-compatible address.
    "reasoning beside": (usage(279, 6, 374, cached=149, reasoning=89), counted(130, 149, 6, 89)),
    "much output": (usage(279, 100, 468, cached=149, reasoning=89), counted(130, 149, 100, 89)),
    "without total": (usage(279, 6, cached=149, reasoning=89), counted(130, 149, 6, 89)),
    "reasoning inside": (usage(279, 95, 374, cached=149, reasoning=89), counted(130, 149, 6, 89)),
    "reasoning alone": (usage(279, 89, 368, cached=149, reasoning=89), counted(130, 149, 0, 89)),
    "cached beside": (usage(100, 10, 610, cached=500), counted(100, 500, 10)),
    "more cached than prompt": (usage(100, 10, 110, cached=500), counted(100, 500, 10)),
    "both beside": (usage(130, 6, 374, cached=149, reasoning=89), counted(130, 149, 6, 89)),
    "strings": (usage("279", "6", "285", cached="149"), counted(130, 149, 6)),
    "fractions": (usage(50.5, 5.5), counted(50, 0, 5)),
    "decimals in quotes": (usage("279.0", "6.", "285.0", cached="149.0"), counted(130, 149, 6)),
    "lists": ({**usage(5, 3), "prompt_tokens_details": []}, counted(5, 0, 3)),
    "words": (usage(5, 3, "eight", cached="none"), counted(5, 0, 3)),
}
UNREPORTED: Mapping[str, Reply] = {
    "none": Reply(text="fine", reports_usage=False),
    "empty": Reply(text="fine", usage={}),
    "null": Reply(text="fine", usage=usage(None, None, cached=None)),
    "zeros": Reply(text="fine", usage=usage(0, 0, 0)),
    "negative": Reply(text="fine", usage=usage(-1, -1, -2)),
}


def usage_of(asked: Asked) -> Usage:
    assert asked.good.text in ("fine", "the whole answer", "thewholeanswer")
    (step,) = asked.attempt.steps
    return step.usage


@pytest.mark.parametrize("name", REPORTED)
def test_counts_in_every_form_are_read(rig: Rig, name: str) -> None:
    sent, expected = REPORTED[name]
    asked = rig.ask(Reply(text="fine", usage=sent))
    assert usage_of(asked) == expected
    assert asked.attempt.usage_known
    assert asked.attempt.steps[0].cost_source == "reported"


@pytest.mark.parametrize("name", UNREPORTED)
def test_usage_that_is_not_reported_is_unknown(rig: Rig, name: str) -> None:
    asked = rig.ask(UNREPORTED[name])
    assert usage_of(asked) == UNKNOWN
    assert not asked.attempt.usage_known
    assert asked.attempt.steps[0].cost_source == "unpriced"


def test_an_answer_without_its_output_tokens_has_no_known_cost(rig: Rig) -> None:
    asked = rig.ask(Reply(text="fine", usage=usage(50, None)))
    found = usage_of(asked)
    assert (found.input_tokens, found.output_tokens, found.cost_pico) == (50, None, None)
    assert not asked.attempt.usage_known


@pytest.mark.nightly
def test_usage_through_the_command_line_is_the_same(rig: Rig) -> None:
    sent, expected = REPORTED["reasoning beside"]
    assert usage_of(rig.ask(Reply(text="fine", usage=sent), backend="cli")) == expected
    asked = rig.ask(UNREPORTED["none"], backend="cli")
    assert usage_of(asked) == UNKNOWN
    assert not asked.attempt.usage_known


@pytest.mark.nightly
def test_without_the_plugin_the_total_restores_what_it_can(unplugged: Rig) -> None:
    for name in ("reasoning beside", "more cached than prompt"):
        sent, expected = REPORTED[name]
        asked = unplugged.ask(Reply(text="fine", usage=sent))
        found = usage_of(asked)
        assert found == Usage(**{k: getattr(expected, k) for k in Usage.__slots__} | {"cost_pico": None})
        # opencode computed the cost from the wrong count.
        assert asked.attempt.steps[0].cost_source == "unpriced"
    assert usage_of(unplugged.ask(UNREPORTED["none"])) == UNKNOWN


@pytest.fixture(scope="module")
def raw_rig(opencode_binary: Path) -> Iterator[Rig]:
    with RawProvider() as raw, Rig(opencode_binary, extra=raw.opencode_config()) as rig:
        yield rig


@pytest.mark.slow
def test_usage_in_other_places_of_a_stream_is_read(raw_rig: Rig) -> None:
    for name in ("cumulative", "usage-in-choice"):
        found = usage_of(raw_rig.ask(model=f"compatible/{name}", system=None))
        assert (found.input_tokens, found.output_tokens) == (40, 10), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "null-error",
        "empty-error",
        "cost-in-quotes",
        "details-in-quotes",
        "no-cost",
        "claude-quotes",
        "claude-event",
        "gemini-tools",
    ],
)
def test_what_providers_add_to_their_events_loses_no_answer(raw_rig: Rig, name: str) -> None:
    asked = raw_rig.ask(model=f"{MODELS[name].wire}/{name}", system=None)
    found = usage_of(asked)
    assert ((found.input_tokens or 0) + (found.cache_read_tokens or 0), found.output_tokens) == (40, 10)
    assert asked.attempt.usage_known


@pytest.mark.slow
@pytest.mark.parametrize("name", ["odd-content", "failed-response"])
def test_the_cost_of_an_answer_that_cannot_be_read_is_unknown(raw_rig: Rig, name: str) -> None:
    asked = raw_rig.ask(model=f"{MODELS[name].wire}/{name}", system=None)
    assert asked.error is not None
    assert not asked.attempt.usage_known


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith(("-then-error", "-in-error"))])
def test_output_that_arrives_with_an_error_may_be_charged(raw_rig: Rig, name: str) -> None:
    asked = raw_rig.ask(model=f"{MODELS[name].wire}/{name}", system=None)
    assert isinstance(asked.error, ServerError)
    assert asked.attempt.usage_known is (name in ("role-then-error", "start-then-error"))


@pytest.mark.parametrize(
    "count", [10**9 + 1, 2**63, 2**64 - 1, 10**400], ids=["more", "int64", "uint64", "inf"]
)
def test_an_impossible_count_is_unknown(rig: Rig, count: int) -> None:
    asked = rig.ask(Reply(text="fine", usage=usage(count, 5, count + 5)))
    found = usage_of(asked)
    assert (found.input_tokens, found.output_tokens, found.cost_pico) == (None, 5, None)
    assert not asked.attempt.usage_known


WARNING = "fake reports no usage: tokens and cost of those model calls are unknown"
# 100 output tokens, and at most 512 bytes of input.
PRICED: Mapping[str, Any] = {"cost": {"input": 1, "output": 10}, "limit": {"context": 100_000, "output": 100}}
BOUND_PICO = 512 * 10**6 + 100 * 10**7


@pytest.mark.slow
@pytest.mark.scripted
def test_a_run_warns_once_and_keeps_its_budget_without_usage(desk: Desk) -> None:
    desk.provider.models = {"echo": PRICED}
    desk.provider.on("row", Reply(text="fine", reports_usage=False))
    desk.write_csv("in.csv", [{"prompt": f"row {i:03}"} for i in range(12)])
    ran = desk.annotate("in.csv", "-o", "out.csv", "--concurrency", "4", "--max-cost", "0.006", "--json")
    assert ran.code == 75, ran.stderr
    assert ran.stderr.count(WARNING) == 1
    # Each call may have cost up to its bound, so no more of them fit the budget.
    sent = len(desk.provider.calls)
    assert 3 <= sent <= 6 * 10**9 // (100 * 10**7)
    assert ran.summary["budget"]["spent_usd"] == 0
    assert ran.summary["budget"]["unreported_at_most_usd"] <= 0.006
    assert (ran.summary["cost_usd"], set(ran.summary["tokens"].values())) == (None, {None})
    bound = ran.summary["budget"]["unreported_at_most_usd"]
    reported = desk.run("report", "--format", "json", "--ledger", str(desk.folder / "ledger.db"))
    assert f"{sent} attempts without complete usage may have cost up to ${bound:.5f} more" in reported.stderr
    rows = [row for row in desk.read_csv("out.csv") if row["status"] == "completed"]
    assert len(rows) == sent
    for row in rows:
        assert (row["response"], row["cost_source"]) == ("fine", "unpriced")
        assert {row[name] for name in ("input_tokens", "output_tokens", "cost_usd")} == {""}
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        unreported = ledger.reports.unreported()
    assert len(unreported) == sent
    assert all(0 < line["at_most_pico"] <= BOUND_PICO for line in unreported)
    resumed = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"), "--max-cost", "1", "--json")
    assert resumed.code == 0, resumed.stderr
    assert WARNING not in resumed.stderr
