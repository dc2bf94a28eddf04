"""When a limit ends whose end the provider does not name, but whose period it does: a day, a month. Pure.

A request each minute for a day is of no use, and some providers count refused requests too. A quota of a
day ends at the time that the provider documents. For others a request each hour finds the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from opencode_tasks.outcomes.provider_answer import ProviderAnswer
from opencode_tasks.outcomes.stated_time import CALIFORNIA, until_midnight_s

HOUR_S = 3_600.0
TEN_MINUTES_S = 600.0


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


# An offer is not the limit: "Upgrade for 1000 requests per day".
_OFFER = _any_of(r"\b(upgrade|unlock|add (a |\d+ )?(credits?|payment)|increase|up to)\b[^.]*")
_SHORT = _any_of(r"\bper[ -]?(second|minute|min)\b|\b(RPM|TPM|RPS|QPS|QPM)\b|/ ?(min(ute)?|s(ec(ond)?)?)\b")
_DAY = _any_of(
    r"\bper[ -_]?day\b|\bdaily\b|\b[RT]PD\b|/ ?day\b|\btomorrow\b|\b24[ -]?h(ours?|rs?)?\b|\btoday.s\b",
    r"每日|每天|今日|当日|當日|明天|每天|一天",
)
_LONGER = _any_of(
    r"\b(weekly|monthly)\b|\bper[ -]?(week|month)\b|/ ?(week|month)\b|\b\d+[ -]?(hours?|days?)\b",
    r"\bfor this (billing )?(cycle|month|week)\b|每周|每月|本月|小时",
)
_HOUR = _any_of(r"\bhourly\b|\bper[ -]?hour\b|/ ?h(ou)?r\b|每小时")
_GOOGLE = _any_of(r"googleapis\.com|\bgemini\b|\bdaily quota on this model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """The period of a limit.

    Attributes:
        words: A pattern of the period in the message.
        providers: A pattern of the provider in the message or body; None for any.
        wait_s: The seconds from a time (aware) until the limit is tried again.
        what: The end of the limit, for the message of the failure.
        example: Words that match, for the documentation.
        source: Address of the documentation of that end.
    """

    words: re.Pattern[str]
    providers: re.Pattern[str] | None = None
    wait_s: Callable[[datetime], float]
    what: str
    example: str
    source: str


PERIODS: Final[tuple[Period, ...]] = (
    Period(
        words=_DAY,
        providers=_GOOGLE,
        wait_s=lambda now: until_midnight_s(now, CALIFORNIA),
        what="its daily quota ends at midnight in California",
        example="daily quota, requests per day (Google)",
        source="https://ai.google.dev/gemini-api/docs/rate-limits",
    ),
    Period(
        words=_DAY,
        providers=_any_of(r"free-models-per-day|openrouter|\b(key|guardrail) limit exceeded"),
        wait_s=until_midnight_s,
        what="its daily limit ends at midnight UTC",
        example="free-models-per-day (OpenRouter)",
        source="https://openrouter.ai/docs/api-reference/limits",
    ),
    Period(
        words=_DAY,
        providers=_any_of(r"\bneurons\b"),
        wait_s=until_midnight_s,
        what="its daily allocation ends at midnight UTC",
        example="daily free allocation of 10,000 neurons (Cloudflare)",
        source="https://developers.cloudflare.com/workers-ai/platform/pricing/",
    ),
    Period(
        words=_HOUR,
        wait_s=lambda _: TEN_MINUTES_S,
        what="the limit of an hour is tried again after 10 minutes",
        example="hourly usage limit",
        source="https://docs.ollama.com/cloud",
    ),
    Period(
        words=_DAY,
        wait_s=lambda _: HOUR_S,
        what="the limit of a day is tried again after an hour",
        example="tokens per day, try again tomorrow",
        source="https://www.rfc-editor.org/rfc/rfc6585#section-4",
    ),
    Period(
        words=_LONGER,
        wait_s=lambda _: HOUR_S,
        what="the limit of several hours or more is tried again after an hour",
        example="weekly limit, 5-hour usage limit, 1000 calls / month",
        source="https://www.rfc-editor.org/rfc/rfc6585#section-4",
    ),
)


def limit_period(answer: ProviderAnswer) -> Period | None:
    """The period that a provider's message names for its limit; None if it names none, or a minute."""
    message = _OFFER.sub("", answer.message)
    for period in PERIODS:
        found = period.words.search(message)
        if found is None or not answer.says(period.words):
            continue
        short = _SHORT.search(message)
        if short is not None and short.start() < found.start():
            return None
        if period.providers is None or period.providers.search(answer.failure.body):
            return period
    return None


def is_daily(answer: ProviderAnswer) -> bool:
    """Whether the limit is one of a day."""
    period = limit_period(answer)
    return period is not None and period.words is _DAY


def is_daily_at_google(answer: ProviderAnswer) -> bool:
    """Whether the limit is one of a day of Google, which names waits of seconds for it."""
    return limit_period(answer) is PERIODS[0]
