"""Cells of a table as Python values, as JSON and as text. Every prompt, id, label and CSV cell is made here.

The same value has the same text, whatever table it comes from; ``docs/reference/tables.md`` lists the rules.
"""

# pandas and numpy have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray

_LISTS = (list, tuple, set, frozenset, np.ndarray, pd.Series, pd.Index, ExtensionArray)
_BYTES = (bytes, bytearray, memoryview)


def is_null(value: Any) -> bool:
    """Return whether the cell is missing: None, NA, NaT or NaN."""
    if isinstance(value, (float, np.floating)):
        return math.isnan(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    return value is None or value is pd.NA or value is pd.NaT


def is_nested(value: Any) -> bool:
    """Return whether the cell holds other values: an object, a list, a set, an array or a column."""
    return isinstance(value, (Mapping, *_LISTS))


def kind_without_text(value: Any) -> str | None:
    """Return what a cell holds that has no text of its own, at any depth; None if it has a text.

    These are bytes, and objects whose text is an address in memory or a part of their values.
    """
    if value is None or isinstance(value, (str, int, float)):
        return None
    if isinstance(value, Mapping):
        items: Iterable[Any] = cast("Mapping[Any, Any]", value).values()
    elif is_nested(value):
        items = value
    else:
        return _object_without_text(value)
    return next((kind for kind in map(kind_without_text, items) if kind is not None), None)


def _object_without_text(value: Any) -> str | None:
    if isinstance(value, _BYTES):
        return "bytes"
    is_array = hasattr(value, "__array__") and not isinstance(value, np.generic)
    return f"objects of the class {type(value).__name__}" if is_array or " at 0x" in str(value) else None


def json_value(value: Any) -> Any:  # noqa: PLR0911 - one line for each kind of value
    """Return the value as JSON can hold it.

    Missing values become None, times ISO 8601 text (aware ones in UTC with Z), arrays lists, sets sorted
    lists, bytes base64 text, and decimals, infinite numbers and values of other types text.
    """
    if is_null(value):
        return None
    if isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {_key(key): json_value(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if is_nested(value):
        items = [json_value(item) for item in value]
        # The order of a set differs between processes.
        return sorted(items, key=json_text) if isinstance(value, (set, frozenset)) else items
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return _numpy_time(value)
    if isinstance(value, np.generic):
        item: Any = value.item()
        # The shortest number that is this 16-bit or 32-bit float.
        return float(str(value)) if isinstance(item, float) and math.isfinite(item) else json_value(item)
    return _value_text(value)


def json_text(value: Any) -> str:
    """Return the JSON text of a value that ``json_value`` returned."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def cell_text(value: Any) -> str | None:
    """Return the text of a cell in prompts, ids, labels and CSV files; None for a missing value.

    Text is unchanged, a whole float has no ``.0``, a boolean is ``True`` or ``False``, a nested value is
    JSON, and other values are as in ``json_value``.
    """
    if isinstance(value, str):
        return value
    plain = json_value(value)
    if plain is None or isinstance(plain, str):
        return plain
    if isinstance(plain, (dict, list)):
        return json_text(_without_fractions(plain))
    return str(_without_fractions(plain))


def _key(key: Any) -> str:
    return key if isinstance(key, str) else cell_text(key) or ""


def _without_fractions(value: Any) -> Any:
    """Return a JSON value in which each whole float that would be shown with ``.0`` is an integer."""
    if isinstance(value, dict):
        return {key: _without_fractions(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_without_fractions(item) for item in cast("list[Any]", value)]
    return int(value) if isinstance(value, float) and repr(value).endswith(".0") else value


def _value_text(value: Any) -> str:
    if isinstance(value, _BYTES):
        return base64.b64encode(value).decode()
    if isinstance(value, (date, time)):
        return _iso_time(value)
    if isinstance(value, timedelta):
        return _iso_duration(value)
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _numpy_time(value: np.datetime64 | np.timedelta64) -> Any:
    item: Any = value.item()
    if not isinstance(item, int):
        return json_value(item)
    # numpy has an integer if Python has no such time: nanoseconds, years as a duration, large years.
    if np.datetime_data(value.dtype)[0] != "ns":
        return str(value)
    return json_value(pd.Timestamp(value) if isinstance(value, np.datetime64) else pd.Timedelta(value))


def _iso_time(value: date | time) -> str:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value.isoformat()


def _iso_duration(value: timedelta) -> str:
    """Return an ISO 8601 duration such as ``P1DT2H3M4.5S``; a negative one begins with a minus sign."""
    nanoseconds = (value.days * 86_400 + value.seconds) * 10**9 + value.microseconds * 1_000
    nanoseconds += getattr(value, "nanoseconds", 0)
    seconds, fraction = divmod(abs(nanoseconds), 10**9)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    exact = f"{seconds}.{fraction:09}".rstrip("0").rstrip(".")
    clock = "".join(
        f"{amount}{unit}"
        for amount, unit in ((hours, "H"), (minutes, "M"), (exact, "S"))
        if amount not in (0, "0")
    )
    sign = "-" if nanoseconds < 0 else ""
    if not clock:
        return f"{sign}P{days}D" if days else "PT0S"
    return f"{sign}P{days}DT{clock}" if days else f"{sign}PT{clock}"
