"""Which of several models wins, and which can win no more."""

from __future__ import annotations

import pytest

from opencode_tasks.quality.candidates import (
    Candidate,
    Measured,
    drop_reason,
    rows_to_be_sure,
    winner,
)
from opencode_tasks.quality.gold import interval


def measured(name: str, correct: int, rows: int, cost: float | None) -> Measured:
    return Measured(
        candidate=Candidate.of(name),
        rows=rows,
        correct=correct,
        costs_usd=[cost] * rows,
        seconds=[1.0] * rows,
    )


def test_a_name_has_a_model_and_a_variant() -> None:
    assert Candidate.of("a/b#high") == Candidate(model="a/b", variant="high")
    assert Candidate.of("a/b").name == "a/b"
    assert Candidate.of("a/b#high").name == "a/b#high"


def test_the_cheapest_model_that_reaches_the_target_wins() -> None:
    poor, good, best = measured("p", 50, 100, 1), measured("g", 92, 100, 3), measured("b", 99, 100, 9)
    unknown = measured("u", 100, 100, None)
    assert winner([poor, good, best, unknown], 0.9) is good
    assert winner([poor, best, unknown], 0.9) is best
    assert winner([poor, unknown], 0.9) is unknown
    assert winner([poor], 0.9) is None
    assert good.label_usd == pytest.approx(300 / 92)
    assert unknown.label_usd is None


def test_a_model_is_dropped_only_if_it_surely_cannot_win() -> None:
    poor, good, dear = measured("p", 10, 20, 1), measured("g", 99, 100, 3), measured("d", 100, 100, 9)
    reason = drop_reason(poor, [good], 0.9)
    assert reason is not None
    assert "are correct" in reason
    assert drop_reason(measured("few", 2, 5, 1), [good], 0.9) is None
    assert drop_reason(good, [dear], 0.9) is None
    assert drop_reason(dear, [good], 0.9) == "g reaches the target and costs less"
    # The cheaper one does not surely reach the target.
    assert drop_reason(dear, [measured("g", 91, 100, 3)], 0.9) is None
    assert drop_reason(dear, [measured("u", 100, 100, None)], 0.9) is None


def test_the_number_of_rows_that_would_tell() -> None:
    rows = rows_to_be_sure(measured("g", 95, 100, 1), 0.9)
    assert rows == 139
    low, _ = interval(round(0.95 * rows), rows)
    assert low == pytest.approx(0.9, abs=0.005)
    assert rows_to_be_sure(measured("g", 90, 100, 1), 0.9) is None
