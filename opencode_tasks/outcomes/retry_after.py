"""Time after which a provider accepts the next request, read from headers and body of a failure. Pure.

Sources, of which the first usable one counts: ``retry-after-ms`` (OpenAI, Azure), ``retry-after``
(RFC 9110 section 10.2.3; providers also send fractions), a ``google.rpc.RetryInfo`` in the body.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from opencode_tasks.domain.json_values import list_in, mapping_in

MAX_S = 100 * 365 * 86_400.0
"""Upper bound of the result, so that adding it to a date cannot overflow."""

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def retry_after_s(headers: Mapping[str, str], body: str, now: datetime) -> float | None:
    """Seconds from ``now`` (aware) until the provider accepts the next request; 0 if that time has passed.

    None if no source has a usable value. A malformed value is skipped.
    """
    for value in _header_values(headers, "retry-after-ms"):
        milliseconds = _number(value)
        if milliseconds is not None:
            return _bounded(milliseconds / 1000)
    for value in _header_values(headers, "retry-after"):
        seconds = _number(value)
        if seconds is None:
            seconds = _seconds_until_date(value, now)
        if seconds is not None:
            return _bounded(seconds)
    for seconds in _retry_info_delays(body):
        return _bounded(seconds)
    return None


def _header_values(headers: Mapping[str, str], name: str) -> Iterator[str]:
    for key, value in headers.items():
        if key.strip().lower() == name:
            yield str(value).strip()


def _number(text: str) -> float | None:
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _seconds_until_date(text: str, now: datetime) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        # asctime dates and the zone -0000 have no time zone; HTTP dates are always GMT.
        date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        return (date - now).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _retry_info_delays(body: str) -> Iterator[float]:
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        return
    for answer in list_in(parsed) or [parsed]:
        error = mapping_in(mapping_in(answer).get("error"))
        for detail in map(mapping_in, list_in(error.get("details"))):
            delay = detail.get("retryDelay")
            if str(detail.get("@type")).endswith("RetryInfo") and isinstance(delay, str):
                seconds = _number(delay.strip().removesuffix("s"))
                if seconds is not None:
                    yield seconds


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), MAX_S)
