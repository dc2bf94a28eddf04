"""The end of a limit, from every source that providers use."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.outcomes.reset_time import CAPPED_S, MAX_S, named_wait_s, usable_wait_s

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


def retry_info(delay: object, kind: str = "type.googleapis.com/google.rpc.RetryInfo") -> str:
    return json.dumps({"error": {"details": [{"@type": "Help"}, {"@type": kind, "retryDelay": delay}]}})


def epoch(seconds: float) -> str:
    return f"{NOW.timestamp() + seconds:.0f}"


def said(message: str, **more: object) -> str:
    return json.dumps({"error": {"message": message, **more}})


def per_day() -> str:
    """Google's quota of a day, which ends at midnight in California: 07:00 UTC in May."""
    quota = {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": "RequestsPerDay"}],
    }
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36s"}
    return json.dumps({"error": {"details": [quota, info]}})


STATED: dict[str, float | None] = {
    "Next attempt allowed in 45 seconds.": 45.0,
    "The next request is possible at 2026-05-01T13:00:00Z.": 3600.0,
    "You can make another request in 12 seconds": 12.0,
    "You are in cooldown: 30s": 30.0,
    "Temporarily banned for 10 minutes": 600.0,
    "Come back in 3 hours.": 10_800.0,
    "Expected wait time: 20s": 20.0,
    "Please wait another 40 seconds": 40.0,
    "Please wait at least 3 seconds": 3.0,
    "Please try again in a minute": 60.0,
    "Try again in less than one minute": 60.0,
    "Try again in an hour and 30 minutes": 5400.0,
    "retry in PT1M30S": 90.0,
    "Limit resets daily at midnight UTC": 43_200.0,
    "Try again tomorrow.": 43_200.0,
    "The quota will be restored in 10 min": 600.0,
    "The window ends in 5 minutes": 300.0,
    "Please retry the request after 20 seconds": 20.0,
    "Rate limit will reset in 30": 30.0,
    "reset_in=30s, retry_after_seconds=17": 30.0,
    # None of these says when the limit ends.
    "10 requests per 60 seconds are allowed, 2 s apart": None,
    "Limit: 3 requests in a minute": None,
    "Please wait a bit": None,
    "The next request with 40 images costs more": None,
    "The job was retried 3 times in 20 seconds": None,
}


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({}, "", None),
        ({"retry-after-ms": "1500"}, "", 1.5),
        # OpenAI rounds the seconds up or down; the longer wait is safe.
        ({"Retry-After-Ms": "9500", "retry-after": "9"}, "", 9.5),
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
        # A proxy sends the header a second time, and clients join both.
        ({"retry-after": "30, 30"}, "", 30.0),
        ({"retry-after": "5,30, 7"}, "", 30.0),
        ({"retry-after": "Fri, 01 May 2026 12:00:30 GMT, Fri, 01 May 2026 12:00:30 GMT"}, "", 30.0),
        ({"retry-after": '"30"'}, "", 30.0),
        ({"retry-after": "'30s'"}, "", 30.0),
        ({"retry-after-ms": "1500, 1500"}, "", 1.5),
        ({"x-ratelimit-reset-requests": "1m, 1m", "x-ratelimit-remaining-requests": "0, 0"}, "", 60.0),
        ({"ratelimitbysize-reset": "37", "ratelimitbysize-remaining": "0"}, "", 37.0),
        ({"retry-after": "2", "ratelimitbysize-reset": "37", "ratelimitbysize-remaining": "0"}, "", 37.0),
        ({"retry-after": "2", "ratelimitbysize-reset": "37", "ratelimitbysize-remaining": "90"}, "", 2.0),
        (
            {"retry-after": "2", "helicone-ratelimit-reset": "52", "helicone-ratelimit-remaining": "0"},
            "",
            52.0,
        ),
        # Copilot, and Kong's limit of several windows.
        ({"retry-after": "3", "x-ratelimit-user-retry-after": "1200"}, "", 1200.0),
        ({"x-envoy-retry-after-ms": "1500"}, "", 1.5),
        ({}, f"[{retry_info('5s')}]", 5.0),
        ({}, retry_info("5s", kind="Other"), None),
        ({}, retry_info(5), 5.0),
        ({}, retry_info("nans"), None),
        ({}, '{"error": "text"}', None),
        ({}, "[" * 100_000, None),
        ({"retry-after": epoch(90)}, "", 90.0),
        ({"retry-after": epoch(90) + "000"}, "", 90.0),
        ({"anthropic-ratelimit-requests-reset": "2026-05-01T13:00:00Z"}, "", 3600.0),
        ({"anthropic-ratelimit-unified-reset": epoch(7)}, "", 7.0),
        # A window whose limit is not used up says nothing about this failure.
        ({"retry-after": "2", "x-ratelimit-reset-requests": "2m59.56s"}, "", 2.0),
        (
            {"retry-after": "2", "x-ratelimit-reset-requests": "3m", "x-ratelimit-remaining-requests": "0"},
            "",
            180.0,
        ),
        ({"x-ratelimit-reset-tokens": "7.66s", "x-ratelimit-reset-requests": "2m59.56s"}, "", 179.56),
        ({"x-ratelimit-reset": epoch(60) + "000"}, "", 60.0),
        ({"ratelimit-reset": "12"}, "", 12.0),
        ({}, said("Please try again in 6m2.88s. Need more tokens?"), 362.88),
        ({}, said("Please retry after 26 seconds."), 26.0),
        ({}, said("try again in 20ms"), 0.02),
        ({}, said("Please try again in 1 hour 30 minutes"), 5400.0),
        ({}, said("Your limit will reset at 2026-05-01 21:00:00", code="1308"), 3600.0),
        ({}, said("You will regain access on 2026-05-02 at 00:00 UTC."), 43_200.0),
        ({}, said("It resets at 2026-05-01T12:10:00+00:00"), 600.0),
        ({}, said("limit", resets_at=int(NOW.timestamp()) + 50), 50.0),
        ({}, said("limit", resets_in_seconds=70, type="usage_limit_reached"), 70.0),
        ({}, said("Rate limit reached: 20 in a minute"), None),
        ({}, per_day(), 19 * 3600.0),
        ({"x-ratelimit-reset": epoch(50) + "000000"}, "", 50.0),
        ({"ratelimit": "limit=100, remaining=0, reset=50"}, "", 50.0),
        ({"ratelimit": '"default";r=0;t=55'}, "", 55.0),
        ({"x-rate-limit-reset": epoch(66)}, "", 66.0),
        ({"helicone-ratelimit-reset": "52"}, "", 52.0),
        ({"x-ms-retry-after-ms": "4500"}, "", 4.5),
        ({"x-retry-after": "33"}, "", 33.0),
        ({"retry-after": "31"}, said("Limit resets at: 2099-01-01 00:00:00 UTC"), 31.0),
        ({}, said("limit", retry_after_ms=2500), 2.5),
        ({}, '{"detail": {"retryAfterSeconds": 14}}', 14.0),
        ({}, '{"error": {"details": {"next_reset_at": "2026-05-01T12:10:10Z"}}}', 610.0),
        *(({}, said(text), seconds) for text, seconds in STATED.items()),
        ({"retry-after": "PT2M"}, "", 120.0),
        ({"x-ratelimit-reset": "P1DT0.5S"}, "", 86_400.5),
        ({"x-ratelimit-reset": "Fri, 01 May 2026 13:00:00 GMT"}, "", 3600.0),
        ({"x-ratelimit-reset": "2026-05-01 13:00:00 UTC"}, "", 3600.0),
        ({}, said("limit", retry_after="PT90S"), 90.0),
        ({}, said("limit", retryAfter={"seconds": 30, "nanos": 0}), 30.0),
        ({}, said("limit", reset=int(NOW.timestamp()) + 30), 30.0),
        ({}, '{"error": "Model a/b is currently loading", "estimated_time": 20.5}', 20.5),
        # A time in a sentence with a condition is not about this failure.
        ({}, said("If you fixed this, try again after 15 minutes."), None),
    ],
)
def test_the_providers_wish(headers: dict[str, str], body: str, seconds: float | None) -> None:
    assert named_wait_s(headers, body, NOW) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Please retry in 12h3m.", 43_380),
        ("Your rate limit resets in ~23s.", 23),
        ("Rate limited. Retry after: 17 seconds", 17),
        ("Try again in 3 days 4 hours 33 minutes.", 275_580),
        ("Quota will be replenished in 01:22:33.", 4953),
        ("Quota will be replenished in 5.03:23:11.", 444_191),
        (f"usage limit reached|{epoch(7200)}", 7200),
        ("Your limit resets at 3pm UTC", 10_800),
        ("Resets at 3:30 PM UTC.", 12_600),
        ("resets 3am (America/Los_Angeles)", 79_200),
        ("resets 6:30pm (Asia/Calcutta)", 3600),
        ("Access resets at 10:57 PM GMT-3.", 50_220),
        ("Available again at 18:30 GMT+2", 16_200),
        ("Quota resets at midnight UTC.", 43_200),
        ("Quota resets at midnight Pacific Time", 68_400),
        ("Quota resets at 12:00 AM PST.", 68_400),
        ("resets Mon 9:00 AM (UTC)", 248_400),
        ("wait for your limit to reset on May 3, 2026 at 2:00 AM or", 136_800),
        ("or try again at May 2nd, 2026 3:04 PM.", 97_440),
        ("Access resets on May 4 at 00:00 UTC", 216_000),
        ("Limit resets on 4 May 2026 00:00 UTC", 216_000),
        ("Retry after Fri, 01 May 2026 12:10:00 GMT", 600),
        ("Try again after 2026-05-01T15:00:00+02:00", 3600),
        ("It will reset at 2026-05-01 21:30:00 +0800 CST.", 5400),
        ("请在 30 秒后重试", 30),
        ("30秒後に再試行してください", 30),
        ("Bitte in 45 Sekunden erneut versuchen.", 45),
        ("réessayez dans 2 minutes", 120),
        ("Inténtelo de nuevo en 15 segundos.", 15),
        ("You can send 3 requests every 24 hours. Try again in 50 minutes.", 3000),
        ("Use version 3.5 of 2026, not 12:30", None),
        ("resets at 25:99 UTC", None),
    ],
)
def test_times_in_words(words: str, seconds: float | None) -> None:
    assert named_wait_s({}, said(words), NOW) == (None if seconds is None else pytest.approx(seconds))


def test_a_wait_of_more_than_a_month_is_none_that_a_provider_means() -> None:
    assert usable_wait_s(MAX_S) == MAX_S
    assert usable_wait_s(MAX_S + 1) == CAPPED_S


@given(st.dictionaries(st.sampled_from(["retry-after", "Retry-After-MS"]), st.text()), st.text())
def test_garbage_never_raises_nor_is_negative(headers: dict[str, str], body: str) -> None:
    seconds = named_wait_s(headers, body, NOW)
    assert seconds is None or seconds >= 0


@given(st.integers(min_value=0, max_value=10**8))
def test_a_date_means_the_seconds_until_it(seconds: int) -> None:
    date = NOW + timedelta(seconds=seconds)
    assert named_wait_s({"Retry-After": format_datetime(date, usegmt=True)}, "", NOW) == seconds


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ('Rate limit exceeded for input "try again in 5 hours"', 5.0),
        ("Limit reached: Try again in 5 HOURS", 5.0),
        ("Limit reached for 'the shop is available again on 2026-05-03'", 5.0),
        ("Limit reached. Please try again in 2 minutes.", 120.0),
        ('Limit reached for "try again in 5 hours". Please retry in 90s.', 90.0),
    ],
)
def test_a_time_that_the_message_quotes_from_the_prompt_does_not_count(message: str, seconds: float) -> None:
    prompt = "Translate: try again in\n5 hours, the shop is available again on 2026-05-03"
    assert named_wait_s({"retry-after": "5"}, said(message), NOW, prompt) == seconds
