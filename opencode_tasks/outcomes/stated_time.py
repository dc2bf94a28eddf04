"""Times and durations in the message of a provider: "try again in 6m2.88s", "resets 3am (Asia/Tokyo)". Pure.

A number counts only after a word that is about the end of a limit. A sentence with a condition ("If you
recently fixed this, try again after 15 minutes") says nothing about the failure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from opencode_tasks.domain.text import plain_words

BEIJING: Final = timezone(timedelta(hours=8))
CALIFORNIA: Final = "America/Los_Angeles"

_UNITS = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_UNIT = r"(weeks?|w|days?|d|hours?|hrs?|h|milliseconds?|ms|minutes?|mins?|m|seconds?|secs?|s)"
_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,12})?"
_ONE = r"(?:an?|one)(?=\s)"
_AMOUNT = rf"(?:{_NUMBER}|\b{_ONE})"
_DURATION_PART = re.compile(rf"(?<![0-9.])({_AMOUNT})\s{{0,3}}{_UNIT}(?![a-z])", re.IGNORECASE)
DURATION: Final = re.compile(
    rf"(?<![0-9.])(?:{_AMOUNT}\s{{0,3}}{_UNIT}(?![a-z])[\s,]{{0,3}}(?:and\s{{1,3}})?)+", re.IGNORECASE
)
# ISO 8601: "PT1M30S", "P1DT12H".
ISO_DURATION: Final = re.compile(
    rf"P(?=[0-9T])(?:({_NUMBER})D)?(?:T(?:({_NUMBER})H)?(?:({_NUMBER})M)?(?:({_NUMBER})S)?)?", re.IGNORECASE
)
_END = (
    r"\b(?:try again|retry|retrying|wait(?:ing)?(?: time)?|resets?[-_ ]in|reset\w*|available|again|renew\w*"
    r"|refresh\w*|replenish\w*|restored?|lift(?:s|ed)?|regain access|until|come back|cool(?:ing)?[- ]?down"
    r"|(?:next|another) (?:attempt|request|retry|call|try)(?: is| are)?(?: allowed| possible| permitted)?"
    r"|blocked|unblocked|banned|locked|throttled|paused|(?:limit|window|period|ban|block) (?:ends|expires))\b"
)
_BEFORE_AMOUNT = (
    r"(?:(?:your|the|this) request\s+)?(?:(?:in|after|for):?\s+)?"
    r"(?:(?:about|approximately|around|at least|less than|up to|another)\s+|~\s?)?"
)
_STATED_DURATION = re.compile(rf"{_END}[:=]?\s*{_BEFORE_AMOUNT}({DURATION.pattern})", re.IGNORECASE)
_STATED_ISO_DURATION = re.compile(rf"{_END}[:=]?\s*{_BEFORE_AMOUNT}({ISO_DURATION.pattern})\b", re.IGNORECASE)
_STATED_SECONDS = re.compile(
    r"\b(?:retry[-_ ](?:after|in)|(?:rate )?(?:limit )?(?:will )?resets?[-_ ]in)(?:_s(?:ec(?:ond)?s?)?)?"
    r"['\"]?\s?[:=]?\s?([0-9]{1,6})(?![\w.:/-])",
    re.IGNORECASE,
)
# The time spans of .NET: 5.03:23:11.
_TIME_SPAN = re.compile(
    rf"{_END}\s+in\s+(?:([0-9]{{1,3}})\.)?([0-9]{{1,2}}):([0-9]{{2}}):([0-9]{{2}})\b", re.IGNORECASE
)
_FOREIGN = (
    (
        re.compile(
            r"([0-9]{1,6})\s?(?:个|個)?(秒|초|分|분|小时|小時|時間|시간|天|日|일)(?:钟|鐘)?\s?(?:之?[后後]|후)"
        ),
        {
            "秒": 1,
            "초": 1,
            "分": 60,
            "분": 60,
            "小": 3600,
            "時": 3600,
            "시": 3600,
            "天": 86_400,
            "日": 86_400,
            "일": 86_400,
        },
    ),
    (
        re.compile(r"\bin ([0-9]{1,6}) (Sekunde|Minute|Stunde|Tage)n?\b", re.IGNORECASE),
        {"s": 1, "m": 60, "st": 3600, "t": 86_400},
    ),
    (
        re.compile(r"\bdans ([0-9]{1,6}) (seconde|minute|heure|jour)s?\b", re.IGNORECASE),
        {"s": 1, "m": 60, "h": 3600, "j": 86_400},
    ),
    (
        re.compile(r"\be[nm] ([0-9]{1,6}) (segundo|minuto|hora|d[ií]a)s?\b", re.IGNORECASE),
        {"s": 1, "m": 60, "h": 3600, "d": 86_400},
    ),
)

_ZONE_NAME = (
    r"Z|UTC|GMT|Pacific|P[SD]?T|M[SD]?T|C[SD]?T|E[SD]?T|CEST|CET|JST|IST|[A-Z]\w{2,20}(?:/\w{2,20}){1,2}"
)
_ZONE = rf"(?:\s?\(?((?:{_ZONE_NAME})?(?:[+-][0-9]{{1,2}}(?::?[0-9]{{2}})?)?)(?![\w]))?"
_CLOCK = r"([0-9]{1,2})(?::([0-9]{2}))?(?::([0-9]{2}))?(?:\.[0-9]+)?\s?([ap]\.?m\b\.?)?"
_STATED_DATE = re.compile(
    rf"{_END}[^.]{{0,30}}?\b([0-9]{{4}})-([0-9]{{2}})-([0-9]{{2}})(?:(?:T|,?\s(?:at\s)?){_CLOCK})?{_ZONE}",
    re.IGNORECASE,
)
_STATED_IN_CHINESE = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})\s([0-9]{2}):([0-9]{2}):([0-9]{2})()()\s?(?:重置|恢复|后|之后)"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"({'|'.join(_MONTHS)})[a-z]{{0,6}}\.?"
_DAY = r"([0-9]{1,2})(?:st|nd|rd|th)?(?![0-9])"
_TIME_OF_DAY = rf"(?:,? (?:at )?{_CLOCK})?{_ZONE}"
_STATED_DAY = re.compile(
    rf"{_END}[^.]{{0,30}}?\b{_MONTH} {_DAY}(?:,? ([0-9]{{4}}))?{_TIME_OF_DAY}", re.IGNORECASE
)
# Also the dates of HTTP.
_STATED_DAY_FIRST = re.compile(
    rf"{_END}[^.]{{0,30}}?\b{_DAY} {_MONTH},? ([0-9]{{4}}){_TIME_OF_DAY}", re.IGNORECASE
)
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_STATED_CLOCK = re.compile(
    rf"{_END}\s(?:on\s|daily\s|every day\s)?(?:({'|'.join(_WEEKDAYS)})[a-z]{{0,6}},?\s)?(?:at\s|after\s)?"
    rf"(?:{_CLOCK}|(midnight)){_ZONE}",
    re.IGNORECASE,
)
_TOMORROW = re.compile(rf"{_END}\s(?:on\s)?tomorrow\b", re.IGNORECASE)
_STATED_EPOCH = re.compile(
    rf"(?:\||{_END}\s?(?:at\s)?[:=]?\s?)([0-9]{{10}}|[0-9]{{13}})(?![\w.])", re.IGNORECASE
)
_CONDITION = re.compile(r"\bif you\b[^.]*", re.IGNORECASE)
_ZONES = {
    "pacific": CALIFORNIA, "p": CALIFORNIA, "m": "America/Denver", "c": "America/Chicago",
    "e": "America/New_York", "cet": "Europe/Paris", "cest": "Europe/Paris", "jst": "Asia/Tokyo",
    "ist": "Asia/Kolkata",
}  # fmt: skip
_OFFSET = re.compile(r"([+-])([0-9]{1,2})(?::?([0-9]{2}))?$")
NOON = 12


# Every pattern of a time, to take those out that the message quotes from the prompt.
_PATTERNS = (
    *(_STATED_DURATION, _STATED_ISO_DURATION, _STATED_SECONDS, _TIME_SPAN),
    *(pattern for pattern, _ in _FOREIGN),
    *(_STATED_EPOCH, _STATED_DATE, _STATED_IN_CHINESE, _STATED_DAY_FIRST, _STATED_DAY, _STATED_CLOCK),
    _TOMORROW,
)


def stated_waits(text: str, now: datetime, *, is_chinese: bool = False, prompt: str = "") -> Iterator[float]:
    """The seconds from ``now`` (aware) until each end of a limit in a message; negative for a past one.

    Args:
        text: The message.
        now: The time from which to count.
        is_chinese: Whether a date without a zone is Beijing's; else it is UTC.
        prompt: Text that was sent; a time of the message that occurs in it says nothing.
    """
    message = _without_quotations(_CONDITION.sub("", text), plain_words(prompt))
    yield from _durations(message)
    for found in _STATED_EPOCH.finditer(message):
        yield float(found[1][:10]) - now.timestamp()
    dates = [*_dates(message, now, BEIJING if is_chinese else UTC)]
    yield from ((date - now).total_seconds() for date in dates)
    if not dates:
        yield from _until_clock(message, now)


def duration_s(text: str) -> float:
    """The seconds of a text such as ``2m59.56s``."""
    parts = ((_amount(found[1]), found[2].lower()) for found in _DURATION_PART.finditer(text))
    return sum(number * _unit(name) for number, name in parts)


def iso_duration_s(text: str) -> float | None:
    """The seconds of a text such as ``PT1M30S``; None for any other."""
    found = ISO_DURATION.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return days * 86_400 + hours * 3_600 + minutes * 60 + seconds


def until_midnight_s(now: datetime, zone: str = "UTC") -> float:
    """The seconds from ``now`` (aware) until the next midnight in a time zone."""
    local = now.astimezone(_zone(zone, UTC))
    midnight = (local + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight.astimezone(UTC) - now).total_seconds()


def _without_quotations(message: str, plain_prompt: str) -> str:
    """The message without the times that the prompt has too."""

    def unquoted(found: re.Match[str]) -> str:
        return "" if plain_words(found.group()) in plain_prompt else found.group()

    for pattern in _PATTERNS if plain_prompt else ():
        message = pattern.sub(unquoted, message)
    return message


def _durations(message: str) -> Iterator[float]:
    for found in _STATED_DURATION.finditer(message):
        yield duration_s(found[1])
    for found in _STATED_ISO_DURATION.finditer(message):
        yield iso_duration_s(found[1]) or 0.0
    for found in _STATED_SECONDS.finditer(message):
        yield float(found[1])
    for found in _TIME_SPAN.finditer(message):
        days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
        yield days * 86_400 + hours * 3_600 + minutes * 60 + seconds
    for pattern, units in _FOREIGN:
        for found in pattern.finditer(message):
            name = found[2].lower()
            yield float(found[1]) * (units.get(name[:2]) or units[name[:1]])


def _amount(text: str) -> float:
    return float(text) if text[0].isdigit() else 1.0


def _unit(name: str) -> float:
    return _UNITS["ms"] if name == "ms" or name.startswith("milli") else _UNITS[name[0]]


def _dates(message: str, now: datetime, default: tzinfo) -> Iterator[datetime]:
    for pattern, zone in ((_STATED_DATE, default), (_STATED_IN_CHINESE, BEIJING)):
        for found in pattern.finditer(message):
            year, month, day, *clock = found.groups()
            yield from _date(int(year), int(month), int(day), clock, zone)
    named = [
        (found[2], *found.groups()[0:1], *found.groups()[2:]) for found in _STATED_DAY_FIRST.finditer(message)
    ]
    for name, day, year, *clock in (*named, *(found.groups() for found in _STATED_DAY.finditer(message))):
        month = _MONTHS.index(name.lower()) + 1
        # A date without a year is the next one.
        passed = (month, int(day)) < (now.month, now.day)
        yield from _date(int(year or now.year + passed), month, int(day), clock, default)


def _date(year: int, month: int, day: int, clock: list[str | None], default: tzinfo) -> Iterator[datetime]:
    hour, minute, second, half, zone = clock
    try:
        time = (_hour(hour or "0", half), int(minute or 0), int(second or 0))
        yield datetime(year, month, day, *time, tzinfo=_zone(zone, default))
    except ValueError:
        return


def _until_clock(message: str, now: datetime) -> Iterator[float]:
    """The seconds until the next time at which a clock shows what the message says."""
    if _TOMORROW.search(message):
        yield until_midnight_s(now)
    for found in _STATED_CLOCK.finditer(message):
        weekday, hour, minute, second, half, midnight, zone = found.groups()
        # A number alone is no time of the day.
        if not midnight and not minute and not half:
            continue
        try:
            local = now.astimezone(_zone(zone, UTC))
            at = local.replace(
                hour=_hour(hour or "0", half), minute=int(minute or 0), second=int(second or 0), microsecond=0
            )
        except ValueError:
            continue
        if weekday:
            at += timedelta(days=(_WEEKDAYS.index(weekday.lower()) - at.weekday()) % 7)
        at += timedelta(days=(7 if weekday else 1) * (at <= local))
        yield (at.astimezone(UTC) - now).total_seconds()


def _hour(text: str, half: str | None) -> int:
    hour = int(text)
    if not half:
        return hour
    return hour % NOON + NOON * (half[0] in "pP")


def _zone(text: str | None, default: tzinfo) -> tzinfo:
    """The zone of ``UTC``, ``PDT``, ``GMT-3``, ``+0800`` or ``Asia/Tokyo``; the default for any other."""
    found = _OFFSET.search(text or "")
    name = (text or "")[: found.start()] if found else text or ""
    if found:
        seconds = int(found[2]) * 3600 + int(found[3] or 0) * 60
        return timezone(timedelta(seconds=-seconds if found[1] == "-" else seconds))
    known = name.lower()
    if not known:
        return default
    if known in ("z", "utc", "gmt"):
        return UTC
    try:
        is_short = re.fullmatch(r"[pmce][sd]?t", known)
        return ZoneInfo(_ZONES.get(known) or (_ZONES[known[0]] if is_short else name))
    except (ValueError, OSError, KeyError):
        return default
