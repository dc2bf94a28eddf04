"""Access to JSON of other programs: a value of another type than expected is empty or None. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, cast


def mapping_in(value: Any) -> Mapping[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def list_in(value: Any) -> list[Any]:
    """The value if it is a JSON array, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def is_deeper(value: Any, limit: int) -> bool:
    """Whether objects and arrays are nested more than ``limit`` deep; the last level may be empty."""
    level = [value]
    for _ in range(limit + 1):
        level = [child for item in level for child in children(item)]
    return bool(level)


def children(value: Any) -> Iterable[Any]:
    """The values in an object or an array; none of another value."""
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value).values()
    return cast("list[Any]", value) if isinstance(value, list) else ()


def text_in(value: Any) -> str | None:
    """The value if it is a string that is not empty, else None."""
    return value if isinstance(value, str) and value else None


def time_in(value: Any) -> datetime | None:
    """The time (aware UTC) of a number of milliseconds since 1970; None if the value is not such a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(value / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
