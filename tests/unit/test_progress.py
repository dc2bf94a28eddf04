"""Progress lines: pace, time left, rows in flight and holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from opencode_tasks.domain.hold import Hold
from opencode_tasks.engine.progress_text import countdown, hold_line, pace_text, progress_line
from opencode_tasks.ledger import ConcurrencyState, Progress


@pytest.mark.parametrize(
    ("pace", "is_found", "text"),
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
            "10 rows in flight (the provider accepts 10)",
        ),
        (
            ConcurrencyState(in_flight=11, limit=11, ceiling=10),
            True,
            "11 rows in flight (trying 11; the provider accepted 10)",
        ),
    ],
)
def test_the_line_names_the_known_limit(pace: ConcurrencyState, text: str, *, is_found: bool) -> None:
    assert pace_text(pace, is_found=is_found) == text


TOKENS = dict.fromkeys(
    ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"), 0
)


def counts_of(*, completed: int, failed: int = 0) -> Progress:
    """Counts of a run of 40 rows."""
    return Progress(
        total=40,
        open=40 - completed - failed,
        completed=completed,
        failed=failed,
        skipped=0,
        reused=0,
        cost_pico=0,
        known_cost_pico=0,
        unknown_attempts=0,
        **TOKENS,
    )


@pytest.mark.parametrize(
    ("completed", "failed", "in_flight", "line"),
    [
        # The first of eight that started together, after 30 s.
        (1, 0, 8, "1/40 rows, 0 failed, 2.0 rows/min, $0.00 so far"),
        (8, 0, 8, "8/40 rows, 0 failed, 16.0 rows/min, about 2 min left, $0.00 so far"),
        (30, 0, 8, "30/40 rows, 0 failed, 1.0 rows/s, about 10 s left, $0.00 so far"),
        (40, 0, 0, "40/40 rows, 0 failed, 1.3 rows/s, $0.00"),
        (0, 0, 8, "0/40 rows, 0 failed, $0.00 so far"),
        # Failed rows are no pace.
        (0, 20, 8, "20/40 rows, 20 failed, $0.00 so far"),
        (10, 20, 8, "30/40 rows, 20 failed, 20.0 rows/min, about 30 s left, $0.00 so far"),
    ],
)
def test_the_line_has_the_pace_of_completed_rows(
    completed: int, failed: int, in_flight: int, line: str
) -> None:
    assert progress_line(counts_of(completed=completed, failed=failed), completed, 30.0, in_flight) == line


UNTIL = datetime(2026, 11, 1, 12, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hold", "line", "short"),
    [
        (
            Hold(until=UNTIL, error_type="rate_limit", message="HTTP 429: no", open_rows=6),
            "6 rows wait; next attempt at 2026-11-01 12:00:30 UTC (rate_limit): HTTP 429: no",
            "6 rows on hold for 30 s: rate limit (Ctrl-C keeps the finished rows)",
        ),
        (
            Hold(until=UNTIL, error_type="server_error", message="rows wait", open_rows=1),
            "1 row waits; next attempt at 2026-11-01 12:00:30 UTC (server_error)",
            "1 row on hold for 30 s: server error (Ctrl-C keeps the finished rows)",
        ),
        (
            Hold(until=None, error_type="billing_error", message="HTTP 402: no credit", open_rows=2),
            "2 rows wait for a person (billing_error): HTTP 402: no credit",
            "2 rows on hold: billing error (Ctrl-C keeps the finished rows)",
        ),
    ],
)
def test_a_hold_has_its_reason_its_end_and_the_message_of_the_provider(
    hold: Hold, line: str, short: str
) -> None:
    assert hold_line(hold) == line
    assert countdown(hold, UNTIL - timedelta(seconds=30)) == short


@pytest.mark.parametrize(
    ("completed", "sent", "known_pico", "projected_pico"),
    [
        (10, 10, 10**10, 4 * 10**10),
        # Reused answers cost nothing, and the rows that are left do.
        (15, 10, 10**10, 10**10 + 25 * 10**9),
        (10, 4, 10**10, None),
        (40, 40, 10**10, None),
        (10, 10, 0, None),
    ],
)
def test_the_projected_cost_follows_the_rows_that_were_sent(
    completed: int, sent: int, known_pico: int, projected_pico: int | None
) -> None:
    counts = replace(counts_of(completed=completed), sent_rows=sent, known_cost_pico=known_pico)
    assert counts.projected_cost_pico == projected_pico
    assert ("in total" in progress_line(counts, 0, 0.0, 0)) == (projected_pico is not None)
