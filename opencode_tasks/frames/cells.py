"""Values of single cells: missing, nested or plain, and as JSON."""

# pandas and numpy have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, cast

import numpy as np
import pandas as pd


def is_null(value: Any) -> bool:
    """Return whether the cell is missing: None, NA, NaT or a float NaN."""
    return (
        value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
    )


def is_nested(value: Any) -> bool:
    """Return whether the cell holds other values: an object, a list, a set or an array."""
    return isinstance(value, (Mapping, list, tuple, set, np.ndarray))


def json_value(value: Any) -> Any:  # noqa: PLR0911 - one line for each kind of value
    """Return the value as JSON can hold it.

    Missing values become None, times ISO 8601 text (aware ones in UTC with Z), arrays lists, infinite
    numbers and values of other types text.
    """
    if is_null(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if is_nested(value):
        return [json_value(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        return json_value(value.item())
    if isinstance(value, date):
        return _iso_time(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, (int, str)) else str(value)


def json_text(value: Any) -> str:
    """Return the JSON text of a value that ``json_value`` returned."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _iso_time(value: date) -> str:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value.isoformat()
