"""Texts that a spreadsheet program writes in another form: numbers, dates and truth values. Pure."""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40})?")
_ISO_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ]00:00:00)?")
_LOCAL_DATE = re.compile(r"(\d{1,2})[./-](\d{1,2})[./-](\d{4}|\d{2})")
_CENTURY = 2000
_SHORT_YEAR = 100


def is_other_form(text: str, original: str) -> bool:
    """Whether a spreadsheet program may have made a text of the original: 134 of 0134, TRUE of true."""
    return text != original and bool(_meanings(text) & _meanings(original))


def _meanings(text: str) -> set[object]:
    """What a spreadsheet program may read in a text; empty for other texts. A local date has two meanings."""
    text = text.strip()
    if text.casefold() in ("true", "false"):
        return {text.casefold()}
    if _NUMBER.fullmatch(text):
        return {Decimal(text)}
    if found := _ISO_DATE.fullmatch(text):
        year, month, day = map(int, found.groups())
        return {(year, month, day)}
    if found := _LOCAL_DATE.fullmatch(text):
        first, second, year = map(int, found.groups())
        year += _CENTURY if year < _SHORT_YEAR else 0
        return {(year, first, second), (year, second, first)}
    return set()
