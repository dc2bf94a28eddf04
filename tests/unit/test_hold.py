"""Holds: their duration, and their one line for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from opencode_tasks import Hold

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def hold(seconds: float | None, open_rows: int = 2) -> Hold:
    until = None if seconds is None else NOW + timedelta(seconds=seconds)
    return Hold(until=until, error_type="rate_limit", message="slow down " * 100, open_rows=open_rows)


@pytest.mark.parametrize(
    ("seconds", "remaining_s", "is_long"),
    [(90, 90.0, True), (60, 60.0, False), (-5, 0.0, False), (None, None, True)],
)
def test_a_hold_lasts_until_its_time_or_until_a_person_acts(
    seconds: float | None, remaining_s: float | None, is_long: bool
) -> None:
    assert hold(seconds).remaining_s(NOW) == remaining_s
    assert hold(seconds).is_longer_than(60, NOW) == is_long


def test_a_hold_reads_as_one_line_with_its_cause() -> None:
    assert str(hold(60)).startswith("2 rows wait until 2026-01-02 03:05:05 UTC: rate_limit: slow down")
    assert str(hold(None, open_rows=1)).startswith("1 row waits for a person: rate_limit:")
    assert len(str(hold(60))) < 260
