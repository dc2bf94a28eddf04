"""Lines of CSV files. Every CSV file of the package is written with it.

A spreadsheet runs a cell as a formula if it begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage
return. In a table for people, such a cell gets an apostrophe in front, which makes the spreadsheet show it as
text. Plain numbers such as ``-5`` or ``+1.5e3`` are the exception: they are harmless and stay numbers. A
table that another program reads has no apostrophes, because they would change its values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:[.,][0-9]*)*|[.][0-9]+)(?:[eE][+-]?[0-9]+)?%?")


def csv_line(cells: Iterable[str | None], delimiter: str = ",") -> str:
    r"""Return the line of these cells with ``\n`` at its end.

    None is an empty cell, and the empty text is ``""``, so that readers can distinguish them.
    """
    special = f'{delimiter}"\r\n'
    return delimiter.join("" if cell is None else _quote(cell, special) for cell in cells) + "\n"


def protected_cell(text: str) -> str:
    """Return the text with an apostrophe in front if a spreadsheet would run it as a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(text) else text


def is_formula(text: str) -> bool:
    """Return whether a spreadsheet would run a cell, or would if the apostrophes before it were not there."""
    plain = text.lstrip("'")
    return protected_cell(plain) != plain


def protected_text(text: str) -> str:
    """Return the text with one more apostrophe if it is a formula after its apostrophes.

    Unlike ``protected_cell``, this can be undone: each such text has one apostrophe more.
    """
    return f"'{text}" if is_formula(text) else text


def _quote(text: str, special: str) -> str:
    # Not csv.writer: it leaves a single CR unquoted if lines end with LF.
    if text == "" or any(sign in text for sign in special):
        return '"' + text.replace('"', '""') + '"'
    return text
