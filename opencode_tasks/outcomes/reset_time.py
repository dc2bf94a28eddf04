"""The time at which a provider accepts requests again, read from headers and body of a failure. Pure.

There are two kinds of sources. A statement is about this failure: ``retry-after-ms``, ``retry-after``
(RFC 9110 section 10.2.3; also a fraction, or a time since 1970), ``google.rpc.RetryInfo``, reset fields
of the body, a time or a duration in the provider's message. A window is about a limit that may have
another reason: ``anthropic-ratelimit-…-reset``, ``x-ratelimit-reset…``, ``ratelimit-reset``. The longest
statement counts. A window counts if its limit is used up, or if there is no statement.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from opencode_tasks.domain.json_values import list_in, mapping_in
from opencode_tasks.outcomes.error_message import body_message
from opencode_tasks.outcomes.provider_answer import MAX_MESSAGE_LENGTH, details_in

MAX_S = 31 * 86_400.0
"""Longest wait that a provider can mean. A longer one is a mistake, and ``CAPPED_S`` is used."""
CAPPED_S = 86_400.0

# Numbers from here on are times since 1970 (in 2001), in seconds or in milliseconds.
MIN_EPOCH_S = 1e9
MIN_EPOCH_MS = 1e12

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_UNITS = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_UNIT = r"(weeks?|w|days?|d|hours?|hrs?|h|milliseconds?|ms|minutes?|mins?|m|seconds?|secs?|s)"
_AMOUNT = r"[0-9]{1,12}(?:\.[0-9]{1,12})?"
_DURATION_PART = re.compile(rf"(?<![0-9.])({_AMOUNT})\s{{0,3}}{_UNIT}(?![a-z])", re.IGNORECASE)
_DURATION = re.compile(
    rf"(?<![0-9.])(?:{_AMOUNT}\s{{0,3}}{_UNIT}(?![a-z])[\s,]{{0,3}}(?:and\s{{1,3}})?)+", re.IGNORECASE
)
_STATED_DURATION = re.compile(
    r"\b(?:try again|retry|wait|reset\w*|available|again)\s+(?:your request\s+)?(?:(?:in|after|for)\s+)?"
    rf"(?:about\s+|approximately\s+)?({_DURATION.pattern})",
    re.IGNORECASE,
)
_STATED_TIME = re.compile(
    r"\b(?:reset\w*|regain access|try again|retry|available|until|refresh\w*)\b[^.]{0,30}?"
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]|,? at )?([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)?(?:\.[0-9]+)?\s*"
    r"(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2})?",
    re.IGNORECASE,
)
_STATED_IN_CHINESE = re.compile(
    r"将在\s*([0-9]{4}-[0-9]{2}-[0-9]{2})\s+([0-9]{2}:[0-9]{2}:[0-9]{2})()\s*重置"
)
# z.ai's codes of limits that end at a time, as a field or at the start of the message.
_OF_ZAI = re.compile(r'"code":\s*"?13(?:08|10|1[6-9]|2[01])\b|\[13(?:08|10|1[6-9]|2[01])\]')
_WINDOW = re.compile(r"(?:(?:x-)?ratelimit-reset(?:-(.+))?|(?:anthropic|x)-ratelimit-(.+)-reset)")
_AT_FIELDS = ("resets_at", "reset_at", "resetsAt", "resetAt", "reset_time", "resetTime")
_AFTER_FIELDS = (
    *("resets_in_seconds", "reset_after_seconds"),
    *("retry_after", "retryAfter", "retry_after_seconds"),
)
BEIJING = timezone(timedelta(hours=8))


def named_wait_s(headers: Mapping[str, str], body: str, now: datetime) -> float | None:
    """Seconds from ``now`` (aware) until the provider accepts the next request; 0 if that time has passed.

    None if no source has a usable value. The result can be years, if the provider says so.
    """
    sent = {str(key).strip().lower(): str(value).strip() for key, value in headers.items()}
    for embedded in _embedded_headers(body):
        sent |= embedded
    statements = [*_header_statements(sent, now), *_body_statements(body, now)]
    windows = _windows(sent, now)
    # Of Anthropic's plans: only the window that refused the request counts.
    for name in [name for name in windows if "unified" in windows and name.startswith("unified-")]:
        if sent.get(f"anthropic-ratelimit-{name}-status") != "rejected":
            del windows[name]
    used_up = [seconds for name, seconds in windows.items() if _is_used_up(sent, name)]
    found = [*statements, *used_up] or list(windows.values())
    return max(0.0, *found) if found else None


def usable_wait_s(named_s: float) -> float:
    """The wait to use for one that the provider named: one of more than 31 days is a mistake."""
    return CAPPED_S if named_s > MAX_S else named_s


def _header_statements(headers: Mapping[str, str], now: datetime) -> Iterator[float]:
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        is_date = milliseconds >= MIN_EPOCH_MS
        yield _since_1970(milliseconds, now) if is_date else milliseconds / 1000
    text = headers.get("retry-after", "")
    seconds = _seconds(text, now)
    if seconds is None:
        seconds = _until_http_date(text, now)
    if seconds is not None:
        yield seconds


def _body_statements(body: str, now: datetime) -> Iterator[float]:
    for part in details_in(body):
        yield from _fields(part, now)
        for holder in (mapping_in(part.get("metadata")), mapping_in(part.get("response"))):
            yield from _fields(holder, now)
            yield from _fields(mapping_in(holder.get("error")), now)
    message = (body_message(body) or body)[:MAX_MESSAGE_LENGTH]
    for found in _STATED_DURATION.finditer(message):
        yield _duration(found[1])
    for found in _STATED_TIME.finditer(message):
        yield from _until_stated(found, now, is_chinese=_OF_ZAI.search(body) is not None)
    for found in _STATED_IN_CHINESE.finditer(message):
        yield from _until_stated(found, now, is_chinese=True)


def _fields(holder: Mapping[str, Any], now: datetime) -> Iterator[float]:
    """The reset fields of one object of a body."""
    if str(holder.get("@type")).endswith("RetryInfo"):
        yield from _texts([holder.get("retryDelay")], now)
    if str(holder.get("@type")).endswith("QuotaFailure"):
        quotas = map(mapping_in, list_in(holder.get("violations")))
        if any("perday" in str(quota.get("quotaId")).lower() for quota in quotas):
            yield _until_midnight_in_california(now)
    yield from _texts((holder.get(name) for name in (*_AT_FIELDS, *_AFTER_FIELDS)), now)


def _texts(values: Iterable[Any], now: datetime) -> Iterator[float]:
    for value in values:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            seconds = _seconds(str(value), now)
            if seconds is not None:
                yield seconds


def _embedded_headers(body: str) -> Iterator[dict[str, str]]:
    """The headers of the provider behind OpenRouter."""
    for part in details_in(body):
        found = mapping_in(mapping_in(part.get("metadata")).get("headers"))
        yield {key.strip().lower(): str(value).strip() for key, value in found.items()}


def _windows(headers: Mapping[str, str], now: datetime) -> dict[str, float]:
    """The end of each limit's window in seconds, by the limit's name."""
    windows: dict[str, float] = {}
    for key, text in headers.items():
        found = _WINDOW.fullmatch(key)
        seconds = _seconds(text, now) if found else None
        if found and seconds is not None:
            windows[found[1] or found[2] or ""] = seconds
    return windows


def _is_used_up(headers: Mapping[str, str], name: str) -> bool:
    names = (
        f"anthropic-ratelimit-{name}-remaining",
        f"x-ratelimit-remaining-{name}",
        f"x-ratelimit-{name}-remaining",
    )
    if not name:
        names = ("x-ratelimit-remaining", "ratelimit-remaining")
    return any(_number(headers.get(key, "")) == 0 for key in names)


def _seconds(text: str, now: datetime) -> float | None:
    """Seconds that a number, a duration (``2m59.56s``) or a time names; None for any other text."""
    text = text.strip()
    number = _number(text)
    if number is not None:
        return _since_1970(number, now) if number >= MIN_EPOCH_S else number
    if text and _DURATION.fullmatch(text):
        return _duration(text)
    return _until_iso(text, now)


def _since_1970(number: float, now: datetime) -> float:
    seconds = number / 1000 if number >= MIN_EPOCH_MS else number
    return seconds - now.timestamp()


def _number(text: str) -> float | None:
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _duration(text: str) -> float:
    parts = ((float(found[1]), found[2].lower()) for found in _DURATION_PART.finditer(text))
    return sum(number * _unit(name) for number, name in parts)


def _unit(name: str) -> float:
    if name == "ms" or name.startswith("milli"):
        return _UNITS["ms"]
    return _UNITS[name[0]]


def _until_http_date(text: str, now: datetime) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        # asctime dates and the zone -0000 have no time zone; HTTP dates are always GMT.
        date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        return (date - now).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _until_iso(text: str, now: datetime) -> float | None:
    if not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]", text):
        return None
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return (date - now).total_seconds()


def _until_stated(found: re.Match[str], now: datetime, *, is_chinese: bool) -> Iterator[float]:
    """The seconds until a time in a message; z.ai means Beijing's, others UTC if they name no zone."""
    day, clock, zone = found.groups()
    try:
        date = datetime.fromisoformat(f"{day}T{clock or '00:00'}")
        if zone and zone[0] in "+-":
            date = datetime.fromisoformat(f"{date.isoformat()}{zone}")
    except ValueError:
        return
    default = BEIJING if is_chinese and not zone else UTC
    yield ((date if date.tzinfo else date.replace(tzinfo=default)) - now).total_seconds()


def _until_midnight_in_california(now: datetime) -> float:
    """Google's daily quotas are reset then (https://ai.google.dev/gemini-api/docs/rate-limits)."""
    try:
        zone: Any = ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:
        zone = timezone(timedelta(hours=-8))
    local = now.astimezone(zone)
    midnight = (local + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight.astimezone(UTC) - now).total_seconds()
