"""What ``benchmarks/speed.py`` makes of a run, and that its bare client asks what it counts."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from opencode_tasks.opencode.client import Response

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _module(monkeypatch, "figures")


@pytest.fixture
def floor(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _module(monkeypatch, "floor")


def _module(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def test_steady_state_leaves_out_start_and_end(figures: ModuleType) -> None:
    # Ten rows long before and ten long after eighty that come ten a second.
    answered = [*range(10), *(1000 + number / 10 for number in range(80)), *range(5000, 5010)]
    begin, end, rows = figures.steady(answered)
    assert (begin, rows) == (9, 80)
    assert end == pytest.approx(1007.9)
    assert figures.steady(answered, 25) == (begin, end, rows)
    assert figures.steady(answered, 26) is None
    assert figures.steady([1.0]) is None
    assert figures.steady([]) is None


def test_cpu_seconds_are_those_of_the_same_time_as_the_rows(figures: ModuleType) -> None:
    # 40 CPU seconds before the first row, then one a second for the rows' 100 seconds.
    report = {
        "started": 0.0,
        "ended": 160.0,
        "cpu": [(0.0, 0.0), (40.0, 40.0), (140.0, 140.0), (160.0, 141.0)],
        "peak_pss": 7,
        "peak_rss": 9,
        "others_cpu_s": 40.0,
    }
    answered = [41.0 + number for number in range(100)]
    whole = figures.figures(answered, report, first_answer=41.0)
    assert (whole.rows_per_s, whole.cpu_s, whole.first_row_s) == (100 / 160, 1.41, 41.0)
    assert whole.steady_rows_per_s == pytest.approx(1)
    assert whole.steady_cpu_s == pytest.approx(1)
    assert whole.others_cores == 0.25
    warm = figures.figures(answered, report, first_answer=9.0, phase=(40.0, 140.0))
    assert (warm.rows_per_s, warm.cpu_s, warm.first_row_s) == (1, 1, 9)


def test_kinds_of_processes_are_told_apart(figures: ModuleType) -> None:
    looks = [(0.0, {"a": 10.0}), (100.0, {"a": 60.0, "b": 100.0})]
    whole, steady = figures.by_kind(looks, [float(moment) for moment in range(101)])
    assert list(whole.items()) == [("b", 100.0), ("a", 60.0)]
    assert steady == {"b": pytest.approx(1), "a": pytest.approx(0.5)}
    assert figures.by_kind(looks, [5.0]) == (whole, {})


def test_a_median_leaves_out_what_is_unknown(figures: ModuleType) -> None:
    names = [field.name for field in dataclasses.fields(figures.Figures)]
    runs = [figures.Figures(**dict.fromkeys(names, value)) for value in (1.0, 5.0, 3.0)]
    assert figures.median(runs) == figures.Figures(**dict.fromkeys(names, 3.0))
    unknown = figures.Figures(**dict.fromkeys(names, 9.0) | {"steady_cpu_s": None})
    assert figures.median([*runs, unknown]).steady_cpu_s == 3.0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, []),
        ({"code": 1}, ["exit code 1"]),
        ({"code": None}, ["killed at its time limit"]),
        ({"asked": ["a"]}, ["1 prompts never reached the provider"]),
        ({"asked": ["a", "b", "b"]}, ["1 prompts reached it more than once"]),
        ({"asked": ["a", "b", "c"]}, ["1 prompts reached it that are no row's"]),
        ({"answers": {"a": "a", "b": "a"}}, ["1 rows without their answer"]),
    ],
)
def test_a_run_is_void_unless_each_row_was_asked_once(
    figures: ModuleType, changed: dict[str, Any], told: list[str]
) -> None:
    good = {"code": 0, "asked": ["b", "a"], "answers": {"a": "a", "b": "b"}}
    assert figures.faults(["a", "b"], **good | changed) == told


def test_a_ratio_is_the_median_of_the_rounds_that_have_both_sides(
    figures: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways, summary = _module(monkeypatch, "ways"), _module(monkeypatch, "summary")
    names = [field.name for field in dataclasses.fields(figures.Figures)]
    floor = [ways.Cell(way="floor", rows=9, servers=servers) for servers in (1, 2)]
    ray = ways.Cell(way="ray", rows=9)
    rates = [(10.0, 20.0, 18.0), (10.0, None, 15.0), (12.0, 40.0, 30.0), (None, None, 9.0)]
    runs = [
        ways.Ran(cell=cell, figures=rate and figures.Figures(**dict.fromkeys(names, rate)), faults=[])
        for one in rates
        for cell, rate in zip((*floor, ray), one, strict=True)
    ]
    rounds = summary.rounds_of(runs)
    assert len(rounds) == 4
    # 0.9 and 0.75; a round whose best floor may be the one that is not known has none.
    assert summary.of_floor(ray, rounds) == pytest.approx(0.825)
    assert [each for *_, each in summary.ratios(rounds)] == ["0.90, 0.75"]
    assert summary.medians(rounds)[ray].rows_per_s == 16.5
    assert summary.of_floor(ways.Cell(way="ray", rows=9, delay_s=2.0), rounds) is None


class Stub:
    """A server whose two routes count what they are asked at once."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.most = 0
        self._now = 0

    async def post(self, path: str, body: dict[str, Any], *, timeout_s: float | None = 30.0) -> Response:
        if path == "/session":
            return Response(200, json.dumps({"id": "ses_1"}))
        assert path == "/session/ses_1/message"
        assert timeout_s is None
        text: str = body["parts"][0]["text"]
        self.prompts.append(text)
        self._now += 1
        self.most = max(self.most, self._now)
        for _ in range(5):
            await asyncio.sleep(0)
        self._now -= 1
        parts = [{"type": "text", "text": f"to {text}"}, {"type": "step-finish"}]
        return Response(200, json.dumps({"parts": parts}))


def test_the_bare_client_asks_each_prompt_once_and_as_many_at_once_as_told(floor: ModuleType) -> None:
    stubs = [Stub(), Stub()]
    prompts = [str(number) for number in range(30)]

    async def ask() -> list[str]:
        return await floor.ask_all(stubs, prompts, 6)

    assert asyncio.run(ask()) == [f"to {prompt}" for prompt in prompts]
    assert sorted(stubs[0].prompts + stubs[1].prompts) == sorted(prompts)
    assert [stub.most for stub in stubs] == [3, 3]
