"""Texts of rows and answers for a terminal."""

from __future__ import annotations

_C0 = [code for code in range(32) if chr(code) not in "\t\n"]
# Unicode has a picture of each C0 control character and of DEL, but not of the C1 ones.
_SIGNS = {code: chr(0x2400 + code) for code in _C0} | {127: "␡"} | dict.fromkeys(range(128, 160), "�")


def without_controls(text: str) -> str:
    """Return the text with a visible sign for each control character except tab and line feed.

    Rows and answers are written by others: in a terminal, an escape sequence in them could hide text, move
    the cursor or set the title of the window. CR LF is a line feed.
    """
    return text.replace("\r\n", "\n").translate(_SIGNS)
