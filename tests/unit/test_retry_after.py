from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.outcomes.retry_after import MAX_S, retry_after_s

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


def retry_info(delay: object, kind: str = "type.googleapis.com/google.rpc.RetryInfo") -> str:
    return json.dumps({"error": {"details": [{"@type": "Help"}, {"@type": kind, "retryDelay": delay}]}})


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({}, "", None),
        ({"retry-after-ms": "1500"}, "", 1.5),
        ({"Retry-After-Ms": "1500", "retry-after": "9"}, "", 1.5),
        ({"RETRY-AFTER": " 7200 "}, "", 7200.0),
        ({"Retry-After": "0.25"}, "", 0.25),
        ({"retry-after": "-3"}, "", 0.0),
        ({"retry-after": "Fri, 01 May 2026 12:00:30 GMT"}, "", 30.0),
        ({"retry-after": "Friday, 01-May-26 12:00:30 GMT"}, "", 30.0),
        ({"retry-after": "Fri May  1 12:00:30 2026"}, "", 30.0),
        ({"retry-after": "Fri, 01 May 2026 11:00:00 GMT"}, "", 0.0),
        ({"retry-after-ms": "soon", "retry-after": "4"}, "", 4.0),
        ({"retry-after-ms": "nan", "retry-after": "inf"}, retry_info("34.07s"), 34.07),
        ({"retry-after": "1" * 400}, retry_info("2s"), 2.0),
        ({"retry-after": "soon"}, "", None),
        ({}, f"[{retry_info('5s')}]", 5.0),
        ({}, retry_info("5s", kind="Other"), None),
        ({}, retry_info(5), None),
        ({}, retry_info("nans"), None),
        ({}, '{"error": "text"}', None),
        ({}, "[" * 100_000, None),
        ({"retry-after": "1e300"}, "", MAX_S),
    ],
)
def test_the_providers_wish(headers: dict[str, str], body: str, seconds: float | None) -> None:
    assert retry_after_s(headers, body, NOW) == seconds


@given(st.dictionaries(st.sampled_from(["retry-after", "Retry-After-MS"]), st.text()), st.text())
def test_garbage_never_raises_nor_is_negative(headers: dict[str, str], body: str) -> None:
    seconds = retry_after_s(headers, body, NOW)
    assert seconds is None or 0 <= seconds <= MAX_S


@given(st.integers(min_value=0, max_value=10**8))
def test_a_date_means_the_seconds_until_it(seconds: int) -> None:
    date = NOW + timedelta(seconds=seconds)
    assert retry_after_s({"Retry-After": format_datetime(date, usegmt=True)}, "", NOW) == seconds
