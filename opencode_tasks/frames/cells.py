"""What a single cell of a frame is: missing, nested, or a plain value."""

# pandas, pyarrow and fsspec come without types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def is_null(value: Any) -> bool:
    """Whether the cell is missing: None, NA, NaT or a float that is not a number."""
    return (
        value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
    )


def is_nested(value: Any) -> bool:
    """Whether the cell holds other values: an object, a list or an array."""
    return isinstance(value, (Mapping, list, tuple, set, np.ndarray))
