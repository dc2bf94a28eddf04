"""What the progress line says of a run's end and of rows in flight."""

from __future__ import annotations

import pytest

from opencode_tasks.cli.progress import pace_words, progress_line
from opencode_tasks.ledger import ConcurrencyState, Progress


@pytest.mark.parametrize(
    ("pace", "is_found", "words"),
    [
        (
            ConcurrencyState(in_flight=12, limit=13, ceiling=None),
            True,
            "12 rows in flight (finding the limit)",
        ),
        (ConcurrencyState(in_flight=1, limit=4, ceiling=None), False, "1 row in flight"),
        (
            ConcurrencyState(in_flight=10, limit=10, ceiling=10),
            True,
            "10 rows in flight (the provider takes 10)",
        ),
        (
            ConcurrencyState(in_flight=11, limit=11, ceiling=10),
            True,
            "11 rows in flight (trying 11; 10 were taken)",
        ),
    ],
)
def test_what_is_known_of_the_limit_is_said(pace: ConcurrencyState, words: str, *, is_found: bool) -> None:
    assert pace_words(pace, is_found=is_found) == words


@pytest.mark.parametrize(
    ("done", "in_flight", "line"),
    [
        # The first of eight that began together, after 30 s of waiting for it.
        (1, 8, "1/40 rows, 0 failed, 2.0 rows/min, $0.00 so far"),
        (8, 8, "8/40 rows, 0 failed, 16.0 rows/min, about 2 min left, $0.00 so far"),
        (30, 8, "30/40 rows, 0 failed, 1.0 rows/s, about 10 s left, $0.00 so far"),
        (40, 0, "40/40 rows, 0 failed, 1.3 rows/s, $0.00"),
        (0, 8, "0/40 rows, 0 failed, $0.00 so far"),
    ],
)
def test_the_time_left_is_told_once_a_wave_of_rows_has_ended(done: int, in_flight: int, line: str) -> None:
    bought = dict.fromkeys(
        ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"), 0
    )
    counts = Progress(
        total=40,
        open=40 - done,
        completed=done,
        failed=0,
        skipped=0,
        reused=0,
        cost_pico=0,
        known_cost_pico=0,
        unknown_attempts=0,
        **bought,
    )
    assert progress_line(counts, done, 30.0, in_flight) == line
