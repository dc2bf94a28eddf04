"""How many rows of a run may fail before its flow run is Failed."""

from __future__ import annotations

import re
from fractions import Fraction

from opencode_tasks.errors import InputError

_FORM = re.compile(r"(\d+)|(\d+(?:\.\d+)?)%")
_WHOLE_PERCENT = 100


def allowed_failures(told: str | int | None, rows: int) -> int | None:
    """The most of ``rows`` that may fail: ``N``, or ``N%`` of them rounded down; None for any number.

    Raises InputError for anything else.
    """
    if told is None:
        return None
    found = _FORM.fullmatch(str(told).strip())
    percent = Fraction(found[2]) if found and found[2] else None
    if not found or (percent is not None and percent > _WHOLE_PERCENT):
        raise InputError((f"--max-failed: {told!r} is neither a number of rows nor a percentage like 5%",))
    return int(found[1]) if percent is None else int(percent * rows / _WHOLE_PERCENT)
