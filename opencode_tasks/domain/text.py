"""Text for people: cut, in one line, and without quotations. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

ELLIPSIS = "…"
# What is between a fault and the beginning of the answer that has it.
ANSWER_IN_MESSAGE = "; the answer begins: "
# A longer last word (a URL, a blob) is cut inside rather than left out.
MAX_WORD = 40
# A part of a text that a message repeats. Shorter ones are words that both may have by chance.
MIN_QUOTE = 24
MAX_VALUE = 80


def shorten(text: str, limit: int) -> str:
    """Return the text with at most ``limit`` characters; if it is longer, cut after a word, with "…"."""
    if len(text) <= limit:
        return text
    head = text[: limit - len(ELLIPSIS)]
    if not text[len(head)].isspace():
        words, _, last = head.rpartition(" ")
        head = words if words and len(last) <= MAX_WORD else head
    return head.rstrip(" ,;:-([{'\"") + ELLIPSIS


def plain_words(text: str) -> str:
    """Return the letters and digits alone, in lower case, since a quotation may be escaped or wrapped."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def composed(text: str) -> str:
    """Return the text with one form for each character: an accent may be written apart from its letter."""
    return unicodedata.normalize("NFC", text)


def without_quotes(message: str, text: str, mark: str) -> str:
    """Return the message with ``mark`` in place of each part of at least MIN_QUOTE characters of the text."""
    half = MIN_QUOTE // 2
    kept: list[str] = []
    # A part of that length contains a piece that begins at a multiple of half of it.
    begin = at = 0
    while at + half <= len(message):
        found = text.find(message[at : at + half])
        if found < 0:
            at += half
            continue
        first, last = _extended(message, text, at, found, half, begin)
        if last - first < MIN_QUOTE:
            at += half
            continue
        kept += [message[begin:first], mark]
        begin = last
        at = -(-last // half) * half
    return "".join([*kept, message[begin:]])


def _extended(message: str, text: str, at: int, found: int, size: int, begin: int) -> tuple[int, int]:
    """The first position and the end in the message of the equal part around a piece at ``found``."""
    first, last = at, at + size
    while first > begin and found - (at - first) > 0 and message[first - 1] == text[found - (at - first) - 1]:
        first -= 1
    while last < len(message) and found + last - at < len(text) and message[last] == text[found + last - at]:
        last += 1
    return first, last


def no_run(run_id: str) -> str:
    """Return the fault of a run id that the ledger does not have."""
    return f"RUN_ID: there is no run {run_id} in this ledger (see: opencode-tasks runs)"


def no_row(run_id: str, row_id: str) -> str:
    """Return the fault of a row id that a run does not have."""
    return f"ROW_ID: run {run_id} has no row {row_id!r} (opencode-tasks view {run_id} lists its rows)"


_ALLOWED = {
    "greater_than": "above {gt:.12g}",
    "greater_than_equal": "at least {ge:.12g}",
    "less_than_equal": "at most {le:.12g}",
    "finite_number": "a finite number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
    "literal_error": "{expected}",
}


def value_fault(error: Mapping[str, Any]) -> str:
    """Return the fault of a value, from one of the errors that pydantic lists."""
    kind, value = error["type"], error["input"]
    if kind not in _ALLOWED:
        return error["msg"]
    shown = value if kind.startswith(("greater", "less", "finite")) else repr(value)
    return f"{shown} is not {_ALLOWED[kind].format(**error.get('ctx', {}))}"


def none_of(value: str, known: Sequence[str]) -> str:
    """Return the fault of a text that is none of the known ones, with the nearest of these."""
    fault = f"{repr(value)[:MAX_VALUE]} is none of {', '.join(known)}"
    plain = {_plain(one): one for one in known}
    if _plain(value) in plain:
        return f"{fault}; did you mean {plain[_plain(value)]!r}? Only case or spaces differ"
    near = get_close_matches(_plain(value), plain, n=1)
    return f"{fault}; did you mean {plain[near[0]]!r}?" if near else fault


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def not_begun(run_id: str) -> str:
    """Return the fault of a run whose rows are not all written, because it is being created or was killed."""
    return f"run {run_id}: it ended before its rows were written, and sent nothing; run annotate again"


def terminal_line(text: str, limit: int) -> str:
    """Return the text in one line of at most ``limit`` characters, with "�" for those without a glyph."""
    words = " ".join(text.split())
    shown = words if len(words) <= limit else words[: limit - len(ELLIPSIS)] + ELLIPSIS
    return "".join(character if character.isprintable() else "�" for character in shown)
