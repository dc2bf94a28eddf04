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
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

from opencode_tasks.domain.json_values import list_in, mapping_in
from opencode_tasks.outcomes.error_message import body_message
from opencode_tasks.outcomes.provider_answer import MAX_MESSAGE_LENGTH, details_in
from opencode_tasks.outcomes.stated_time import (
    CALIFORNIA,
    DURATION,
    duration_s,
    iso_duration_s,
    stated_waits,
    until_midnight_s,
)

MAX_S = 31 * 86_400.0
"""Longest wait that a provider can mean. A longer one is a mistake, and ``CAPPED_S`` is used."""
CAPPED_S = 86_400.0

# Numbers from here on are times since 1970 (in 2001): in seconds, milliseconds, micro- or nanoseconds.
MIN_EPOCH_S = 1e9
MIN_EPOCH_MS = 1e12
MAX_DEPTH = 3

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# z.ai's codes of limits that end at a time, as a field or at the start of the message.
_OF_ZAI = re.compile(r'"code":\s*"?13(?:08|10|1[6-9]|2[01])\b|\[13(?:08|10|1[6-9]|2[01])\]')
_WINDOW = re.compile(
    r"(?:\w+-){0,3}rate-?limit(?:by\w+)?-reset(?:-.+)?|(?:anthropic|x)-ratelimit-.+-reset|(?:x-)?(ratelimit)"
)
# The value of the header RateLimit in its two forms: "limit=100, remaining=0, reset=50" and "…;r=0;t=50".
_RATE_LIMIT = re.compile(r"(?:\breset=|;\s?t=)([0-9]{1,10})\b")
# Also with the names of a provider and a limit: "x-ratelimit-user-retry-after" of Copilot.
_MS_HEADER = re.compile(r"(?:[\w-]+-)?retry-after-ms")
_AFTER_HEADER = re.compile(r"(?:[\w-]+-)?retry-after")
# A header that was sent twice with one value: clients join both.
_DOUBLED = re.compile(r"^(.{1,200}), ?\1$", re.DOTALL)
# Names of fields in lower case, without separators.
_RESET_FIELDS = frozenset(
    (
        *("resetsat", "resetat", "resettime", "resettimestamp", "resetdate", "nextreset", "nextresetat"),
        *("resetin", "resetsin", "resetsinseconds", "resetafterseconds", "retryat", "availableat"),
        *("retryafter", "retryafterseconds", "quotaresetdelay", "quotaresettimestamp", "reset", "retryin"),
        *("retryinseconds", "waitseconds", "waittime", "cooldownseconds", "estimatedtime"),
    )
)
_MS_FIELDS = frozenset({"retryafterms", "retryinms", "resetinms", "resetsinms", "resetafterms", "waitms"})
# Objects of a body in which reset fields are.
_HOLDERS = ("metadata", "response", "error", "details", "detail", "rate_limit", "rateLimit", "quota")


def named_wait_s(headers: Mapping[str, str], body: str, now: datetime, prompt: str = "") -> float | None:
    """Seconds from ``now`` (aware) until the provider accepts the next request; 0 if that time has passed.

    None if no source has a usable value. The result can be years, if the provider says so. A time in the
    provider's message that occurs in the prompt does not count, because a message may quote it.
    """
    sent = {str(key).strip().lower(): _value(str(value)) for key, value in headers.items()}
    for embedded in _embedded_headers(body):
        sent |= embedded
    statements = [*_header_statements(sent, now), *_body_statements(body, now, prompt)]
    windows = _windows(sent, now)
    # Of Anthropic's plans: only the window that refused the request counts.
    plan = "anthropic-ratelimit-unified-"
    for name in [name for name in windows if f"{plan}reset" in windows and name.startswith(plan)]:
        if name != f"{plan}reset" and sent.get(name.replace("-reset", "-status")) != "rejected":
            del windows[name]
    used_up = [seconds for name, seconds in windows.items() if _is_used_up(sent, name)]
    found = [*statements, *used_up] or list(windows.values())
    # A time in years is a mistake; another source may be right.
    plausible = [seconds for seconds in found if seconds <= MAX_S] or found
    return max(0.0, *plausible) if plausible else None


def usable_wait_s(named_s: float) -> float:
    """The wait to use for one that the provider named: one of more than 31 days is a mistake."""
    return CAPPED_S if named_s > MAX_S else named_s


def _value(text: str) -> str:
    """The value of a header without quotes; of one that was sent more than once, the largest."""
    values = _DOUBLED.sub(r"\1", text.strip()).split(",")
    plain = [value.strip().strip("\"'") for value in values]
    numbers = [value for value in plain if _number(value) is not None]
    if len(numbers) == len(values):
        return max(numbers, key=float)
    return plain[0] if len(values) == 1 else ",".join(values)


def _header_statements(headers: Mapping[str, str], now: datetime) -> Iterator[float]:
    for name, text in headers.items():
        if _MS_HEADER.fullmatch(name):
            milliseconds = _number(text)
            if milliseconds is not None:
                is_date = milliseconds >= MIN_EPOCH_MS
                yield _since_1970(milliseconds, now) if is_date else milliseconds / 1000
        elif _AFTER_HEADER.fullmatch(name):
            seconds = _seconds(text, now)
            if seconds is not None:
                yield seconds


def _body_statements(body: str, now: datetime, prompt: str) -> Iterator[float]:
    for part in details_in(body):
        yield from _fields_in(part, now, MAX_DEPTH)
    message = (body_message(body) or body)[:MAX_MESSAGE_LENGTH]
    yield from stated_waits(message, now, is_chinese=_OF_ZAI.search(body) is not None, prompt=prompt)


def _fields_in(holder: Mapping[str, Any], now: datetime, depth: int) -> Iterator[float]:
    """The reset fields of an object of a body, and of the objects in it."""
    yield from _fields(holder, now)
    for inner in (mapping_in(holder.get(name)) for name in _HOLDERS if depth):
        yield from _fields_in(inner, now, depth - 1)


def _fields(holder: Mapping[str, Any], now: datetime) -> Iterator[float]:
    """The reset fields of one object of a body."""
    if str(holder.get("@type")).endswith("RetryInfo"):
        yield from _texts([holder.get("retryDelay")], now)
    if str(holder.get("@type")).endswith("QuotaFailure"):
        quotas = map(mapping_in, list_in(holder.get("violations")))
        if any("perday" in str(quota.get("quotaId")).lower() for quota in quotas):
            # Google's daily quotas end then (https://ai.google.dev/gemini-api/docs/rate-limits).
            yield until_midnight_s(now, CALIFORNIA)
    named = [(re.sub(r"[_-]", "", key).lower(), value) for key, value in holder.items()]
    yield from _texts((value for name, value in named if name in _RESET_FIELDS), now)
    yield from (ms / 1000 for ms in _texts((value for name, value in named if name in _MS_FIELDS), now))


def _texts(values: Iterable[Any], now: datetime) -> Iterator[float]:
    for value in values:
        # A duration of protobuf in its long form.
        if seconds := mapping_in(value).get("seconds"):
            yield from _texts([seconds], now)
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
    """The end of each limit's window in seconds, by the name of its header."""
    windows: dict[str, float] = {}
    for key, text in headers.items():
        found = _WINDOW.fullmatch(key)
        in_header = _RATE_LIMIT.search(text) if found and found[1] else None
        seconds = _seconds(in_header[1] if in_header else text, now) if found else None
        if seconds is not None:
            windows[key] = seconds
    return windows


def _is_used_up(headers: Mapping[str, str], name: str) -> bool:
    return _number(headers.get(name.replace("-reset", "-remaining"), "")) == 0


def _seconds(text: str, now: datetime) -> float | None:
    """Seconds that a number, a duration (``2m59.56s``, ``PT2M``) or a time names; None for any other text."""
    text = text.strip()
    number = _number(text)
    if number is not None:
        return _since_1970(number, now) if number >= MIN_EPOCH_S else number
    if text and DURATION.fullmatch(text):
        return duration_s(text)
    for read in (iso_duration_s, partial(_until_iso, now=now), partial(_until_http_date, now=now)):
        if (seconds := read(text)) is not None:
            return seconds
    return None


def _since_1970(number: float, now: datetime) -> float:
    while number >= MIN_EPOCH_MS:
        number /= 1000
    return number - now.timestamp()


def _number(text: str) -> float | None:
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


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
        date = datetime.fromisoformat(re.sub(r" ?(?:UTC|GMT)$", "Z", text))
    except ValueError:
        return None
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return (date - now).total_seconds()
