"""Drift of canaries: the usual ranges, their rate of false alarms, and the changes that are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from opencode_tasks.quality.drift import (
    ALARM_RATE,
    MAX_EARLIER_RUNS,
    MIN_EARLIER_RUNS,
    CanaryReport,
    CanaryRow,
    CanaryRun,
    judge,
    mean_range,
    report_in,
    report_json,
    share_range,
    usual_runs,
)

CANARIES = 20


def a_run(number: int, **values: Any) -> CanaryRun:
    rows = [CanaryRow(position=n, is_completed=True) for n in range(CANARIES)]
    fixed: dict[str, Any] = {"run_id": f"r{number}", "part_id": f"r{number}-0", "rows": rows, "correct": {}}
    return CanaryRun(**{**fixed, **values})


def names(report: CanaryReport) -> list[str]:
    return [one.name for one in report.measures if one.is_drift]


class World:
    """A model with noise: some canaries are always right and some often, and answers vary in length."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.right = [1.0 if self.random.random() < 0.7 else 0.8 for _ in range(CANARIES)]

    def run(
        self, number: int, *, fall: float = 0.0, longer: float = 1.0, dearer: float = 1.0, fails: float = 0.01
    ) -> CanaryRun:
        chance = self.random.random
        rows: list[CanaryRow] = []
        correct = 0
        for at, right in enumerate(self.right):
            sent, answered = 100 + 10 * at, max(1, round(self.random.lognormvariate(2.5, 0.3) * longer))
            cost = round((sent + 4 * answered) * 1e6 * dearer)
            if chance() < fails:
                rows.append(CanaryRow(position=at, is_completed=False))
                continue
            rows.append(CanaryRow(position=at, is_completed=True, input_tokens=sent, output_tokens=answered))
            rows[-1] = replace(rows[-1], cost_pico=cost)
            correct += chance() < right - fall
        changed = sum(chance() < 0.05 for _ in range(CANARIES))
        answers = sum(row.is_completed for row in rows)
        return a_run(
            number,
            rows=rows,
            correct={"response": (correct, answers)},
            changed=(changed, CANARIES) if number else (0, 0),
        )


def series(seed: int, usual: int, changed: int = 0, **change: float) -> list[bool]:
    """Whether each run of a series shows a drift; the last ones are after a change of the model."""
    world, history = World(seed), list[CanaryRun]()
    for number in range(usual + changed):
        run = world.run(number, **(change if number >= usual else {}))
        history.append(replace(run, has_drift=judge(run, history).has_drift))
    return [run.has_drift for run in history]


@pytest.mark.nightly
def test_runs_without_a_change_seldom_show_a_drift() -> None:
    found = [series(seed, 15)[MIN_EARLIER_RUNS:] for seed in range(200)]
    share = sum(map(sum, found)) / sum(map(len, found))
    assert 0 < share <= ALARM_RATE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("usual", "change", "least"),
    [
        (5, {"fall": 0.4}, 0.8),
        (15, {"fall": 0.4}, 0.85),
        (5, {"longer": 2.0}, 0.85),
        (15, {"longer": 1.5}, 0.95),
        (5, {"dearer": 1.2}, 0.85),
        (15, {"fails": 0.4}, 0.95),
    ],
)
def test_a_change_is_found_in_the_first_run(usual: int, change: dict[str, float], least: float) -> None:
    found = [series(seed, usual, 1, **change)[-1] for seed in range(100)]
    assert sum(found) / len(found) >= least


def test_there_is_no_range_before_five_runs() -> None:
    earlier: list[CanaryRun] = []
    for number in range(MIN_EARLIER_RUNS):
        report = judge(a_run(number, correct={"response": (20, 20)}), earlier)
        assert report.earlier_runs == number
        assert {one.low for one in report.measures} == {None}
        earlier.append(a_run(number, correct={"response": (20, 20)}))
    report = judge(a_run(9, correct={"response": (10, 20)}), earlier)
    assert (names(report), report.since, report.run_id) == (["accuracy"], "r9", "r9-0")
    assert report_in(report_json(report)) == report


def usual(count: int, start: int = 0, *, has_drift: bool = False) -> list[CanaryRun]:
    return [a_run(number, has_drift=has_drift) for number in range(start, start + count)]


@pytest.mark.parametrize(
    ("earlier", "first", "count", "drifted"),
    [
        (usual(3), "r0", 3, []),
        (usual(40), "r10", MAX_EARLIER_RUNS, []),
        (usual(6) + usual(2, 6, has_drift=True), "r0", 6, ["r6", "r7"]),
        (usual(6) + usual(2, 6, has_drift=True) + usual(1, 8), "r0", 7, []),
        # What lasts for five runs is usual.
        (usual(6) + usual(5, 6, has_drift=True), "r6", 5, []),
        (usual(6) + usual(6, 6, has_drift=True), "r6", 5, ["r11"]),
    ],
)
def test_which_runs_are_usual(
    earlier: Sequence[CanaryRun], first: str, count: int, drifted: list[str]
) -> None:
    found, since = usual_runs(earlier)
    assert (found[0].run_id, len(found), [run.run_id for run in since]) == (first, count, drifted)


def test_a_long_prompt_that_failed_changes_no_mean() -> None:
    rows = [
        CanaryRow(position=n, is_completed=True, input_tokens=5000 if n == 0 else 100)
        for n in range(CANARIES)
    ]
    failed = [CanaryRow(position=0, is_completed=False), *rows[1:]]
    earlier = [a_run(number, rows=rows) for number in range(6)]
    assert names(judge(a_run(7, rows=failed), earlier)) == []
    longer = [replace(row, input_tokens=(row.input_tokens or 0) * 11 // 10) for row in rows]
    assert names(judge(a_run(7, rows=longer), earlier)) == ["input_tokens"]


def test_a_price_for_what_was_free_is_a_drift() -> None:
    def priced(pico: int) -> list[CanaryRow]:
        return [CanaryRow(position=n, is_completed=True, cost_pico=pico) for n in range(CANARIES)]

    earlier = [a_run(number, rows=priced(0)) for number in range(5)]
    assert names(judge(a_run(6, rows=priced(0)), earlier)) == []
    assert names(judge(a_run(6, rows=priced(10**6)), earlier)) == ["cost_usd"]


def test_fewer_failures_are_no_drift() -> None:
    half = [CanaryRow(position=n, is_completed=n % 2 == 0) for n in range(CANARIES)]
    earlier = [a_run(number, rows=half) for number in range(10)]
    assert names(judge(a_run(11), earlier)) == []
    assert names(judge(a_run(11, rows=half), [a_run(number) for number in range(10)])) == ["failed"]


def test_the_ranges() -> None:
    # All of 100 earlier rows were right: 18 of 20 have a probability of 380 / 14,280, 17 one of 0.004.
    assert share_range(20, 100, 100, 0.02, has_low=True) == (0.9, 1.0)
    assert share_range(20, 100, 100, 0.004, has_low=True) == (0.85, 1.0)
    assert share_range(20, 0, 100, 0.01, has_low=False) == (0.0, 0.1)
    # Equal values have a range of 5 % on either side.
    assert mean_range([100.0] * 5, 0.01) == pytest.approx((95.0, 105.0))
    low, high = mean_range([90.0, 110.0, 100.0, 95.0, 105.0], 0.05)
    # Student's t for 4 degrees of freedom is 2.776, the standard deviation 7.906.
    assert (low, high) == pytest.approx((100 - 24.04, 100 + 24.04), abs=0.01)
