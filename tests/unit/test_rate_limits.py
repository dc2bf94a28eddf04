"""Requests and tokens per minute: no minute holds more than is allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.domain.rate_limits import level, rows_within


def test_a_bucket_never_used_is_full() -> None:
    assert level(None, 60, passed_s=0) == 4
    assert level(None, 1, passed_s=0) == 1


def test_a_bucket_fills_to_its_size_and_comes_back_from_debt() -> None:
    assert level(4, 60, passed_s=100) == 4
    assert level(-57, 60, passed_s=60) == pytest.approx(0)


def test_the_scarcer_of_requests_and_tokens_decides() -> None:
    assert rows_within(None, None, row_tokens=100) is None
    assert rows_within(3.9, None, row_tokens=100) == 3
    assert rows_within(3.9, 150, row_tokens=100) == 2
    assert rows_within(-1, 150, row_tokens=100) == 0
    assert rows_within(9, -1, row_tokens=100) == 0


def test_a_row_larger_than_the_bucket_goes_when_nothing_is_owed() -> None:
    assert rows_within(None, 1, row_tokens=10_000) == 1


@given(st.integers(1, 2000), st.floats(0.25, 5))
def test_no_minute_holds_more_than_is_allowed(per_minute: int, every_s: float) -> None:
    held, sent, now = level(None, per_minute, passed_s=0), list[tuple[float, int]](), 0.0
    while now < 150:
        rows = rows_within(held, None, row_tokens=0) or 0
        sent.append((now, rows))
        held = level(held - rows, per_minute, passed_s=every_s)
        now += every_s
    for begin, _ in sent:
        in_a_minute = sum(rows for moment, rows in sent if begin <= moment < begin + 59.99)
        assert in_a_minute <= per_minute
