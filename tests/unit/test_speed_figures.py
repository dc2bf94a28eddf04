"""Figures and ratios of ``benchmarks/speed.py``, and the requests of its bare client."""

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
    return import_benchmark(monkeypatch, "figures")


@pytest.fixture
def floor(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return import_benchmark(monkeypatch, "floor")


def import_benchmark(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def test_steady_state_excludes_start_and_end(figures: ModuleType) -> None:
    # Eighty answers at a rate of ten per second, ten long before them and ten long after them.
    times = [*range(10), *(1000 + number / 10 for number in range(80)), *range(5000, 5010)]
    start, end, rows = figures.steady_state(times)
    assert (start, rows) == (9, 80)
    assert end == pytest.approx(1007.9)
    assert figures.steady_state(times, 25) == (start, end, rows)
    assert figures.steady_state(times, 26) is None
    assert figures.steady_state([1.0]) is None
    assert figures.steady_state([]) is None


def test_cpu_time_and_rows_are_of_the_same_period(figures: ModuleType) -> None:
    # 40 CPU seconds before the first row, then one per second for 100 seconds of rows.
    report = {
        "started": 0.0,
        "ended": 160.0,
        "cpu": [(0.0, 0.0), (40.0, 40.0), (140.0, 140.0), (160.0, 141.0)],
        "peak_pss": 7,
        "peak_rss": 9,
        "others_cpu_s": 40.0,
    }
    times = [41.0 + number for number in range(100)]
    whole = figures.figures(times, report, first_answer=41.0)
    assert (whole.rows_per_s, whole.cpu_s, whole.first_row_s) == (100 / 160, 1.41, 41.0)
    assert whole.steady_rows_per_s == pytest.approx(1)
    assert whole.steady_cpu_s == pytest.approx(1)
    assert whole.others_cores == 0.25
    warm = figures.figures(times, report, first_answer=9.0, phase=(40.0, 140.0))
    assert (warm.rows_per_s, warm.cpu_s, warm.first_row_s) == (1, 1, 9)


def test_cpu_time_is_counted_by_kind_of_process(figures: ModuleType) -> None:
    samples = [(0.0, {"a": 10.0}), (100.0, {"a": 60.0, "b": 100.0})]
    whole, steady = figures.cpu_by_kind(samples, [float(time) for time in range(101)])
    assert list(whole.items()) == [("b", 100.0), ("a", 60.0)]
    assert steady == {"b": pytest.approx(1), "a": pytest.approx(0.5)}
    assert figures.cpu_by_kind(samples, [5.0]) == (whole, {})


def test_median_ignores_unknown_figures(figures: ModuleType) -> None:
    names = [field.name for field in dataclasses.fields(figures.Figures)]
    runs = [figures.Figures(**dict.fromkeys(names, value)) for value in (1.0, 5.0, 3.0)]
    assert figures.median(runs) == figures.Figures(**dict.fromkeys(names, 3.0))
    unknown = figures.Figures(**dict.fromkeys(names, 9.0) | {"steady_cpu_s": None})
    assert figures.median([*runs, unknown]).steady_cpu_s == 3.0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"code": 1}, ["exit code 1"]),
        ({"code": None}, ["killed at its time limit"]),
        ({"sent": ["a"]}, ["1 prompts did not reach the provider"]),
        ({"sent": ["a", "b", "b"]}, ["1 prompts reached the provider more than once"]),
        ({"sent": ["a", "b", "c"]}, ["1 prompts of no row reached the provider"]),
        ({"answers": {"a": "a", "b": "a"}}, ["1 rows do not have their answer"]),
    ],
)
def test_run_is_valid_if_each_row_was_sent_once(
    figures: ModuleType, changes: dict[str, Any], expected: list[str]
) -> None:
    valid = {"code": 0, "sent": ["b", "a"], "answers": {"a": "a", "b": "b"}}
    assert figures.faults(["a", "b"], **valid | changes) == expected


def test_ratio_is_the_median_of_rounds_that_have_both_rates(
    figures: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods, summary = import_benchmark(monkeypatch, "methods"), import_benchmark(monkeypatch, "summary")
    names = [field.name for field in dataclasses.fields(figures.Figures)]
    floor = [methods.Cell(method="floor", rows=9, servers=servers) for servers in (1, 2)]
    ray = methods.Cell(method="ray", rows=9)
    rates = [(10.0, 20.0, 18.0), (10.0, None, 15.0), (12.0, 40.0, 30.0), (None, None, 9.0)]
    runs = [
        methods.MethodRun(
            cell=cell, figures=rate and figures.Figures(**dict.fromkeys(names, rate)), faults=[]
        )
        for rates_of_round in rates
        for cell, rate in zip((*floor, ray), rates_of_round, strict=True)
    ]
    rounds = summary.rounds_of(runs)
    assert len(rounds) == 4
    # 0.9 and 0.75. A round has no ratio if a rate of the floor is unknown, because it may be the best one.
    assert summary.ratio_to_floor(ray, rounds) == pytest.approx(0.825)
    assert [by_round for *_, by_round in summary.ratios(rounds)] == ["0.90, 0.75"]
    assert summary.medians(rounds)[ray].rows_per_s == 16.5
    assert summary.ratio_to_floor(methods.Cell(method="ray", rows=9, delay_s=2.0), rounds) is None


class Stub:
    """A server with the two routes that the client uses; it counts concurrent prompts."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.max_active = 0
        self._active = 0

    async def post(self, path: str, body: dict[str, Any], *, timeout_s: float | None = 30.0) -> Response:
        if path == "/session":
            return Response(200, json.dumps({"id": "ses_1"}))
        assert path == "/session/ses_1/message"
        assert timeout_s is None
        text: str = body["parts"][0]["text"]
        self.prompts.append(text)
        self._active += 1
        self.max_active = max(self.max_active, self._active)
        for _ in range(5):
            await asyncio.sleep(0)
        self._active -= 1
        parts = [{"type": "text", "text": f"to {text}"}, {"type": "step-finish"}]
        return Response(200, json.dumps({"parts": parts}))


def test_bare_client_sends_each_prompt_once_with_the_given_concurrency(floor: ModuleType) -> None:
    stubs = [Stub(), Stub()]
    prompts = [str(number) for number in range(30)]

    async def send() -> list[str]:
        return await floor.send_all(stubs, prompts, 6)

    assert asyncio.run(send()) == [f"to {prompt}" for prompt in prompts]
    assert sorted(stubs[0].prompts + stubs[1].prompts) == sorted(prompts)
    assert [stub.max_active for stub in stubs] == [3, 3]
