"""The label that the text of an answer names. Pure.

A text names a label if it is the label, or a sentence that says nothing else. Everything else is refused:
a text with a negation, with two labels or with a reason is no label.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Quotation marks and the marks of Markdown.
_MARKS = " \t\r\n\"'`*_“”‘’«»"  # noqa: RUF001  these are the quotation marks
_FENCE = re.compile(r"\s*```[\w-]*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
_WORD = r"[^\W\d_]+"
_SUBJECT = rf"(?:it|this|that|(?:the|this|my) {_WORD}(?: of (?:the|this) {_WORD})?)"
_SENTENCE = re.compile(
    rf"(?:(?:{_WORD} )?{_WORD} ?:|{_SUBJECT} is(?: an?)?(?: ?:)?) (?P<label>.+)", re.IGNORECASE
)


def label_in(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that a text names; None if it names none.

    The text is the label, or ``Word: label``, ``Two words: label``, ``It is label``, ``The word is label``,
    ``The word of the word is label`` (also with "this", "that" and "my", and "a" before the label). Case,
    white space, quotation marks, the marks of Markdown and a full stop at the end do not count. If labels
    differ by these alone, the text must have the label exactly.
    """
    if text.strip() in labels:
        return text.strip()
    plain = " ".join(_bare(text).split())
    sentence = _SENTENCE.fullmatch(plain)
    wanted = {_folded(part) for part in (plain, sentence["label"] if sentence else plain)} - {""}
    found = [label for label in labels if _folded(label) in wanted]
    return found[0] if len(found) == 1 else None


def without_fence(text: str) -> str:
    """Return a text without white space around it, and the content of one that is a single code fence."""
    fence = _FENCE.fullmatch(text)
    return (text if fence is None or "```" in fence[1] else fence[1]).strip()


def _bare(text: str) -> str:
    return text.strip(_MARKS).removesuffix(".").removesuffix("!").strip(_MARKS)


def _folded(text: str) -> str:
    return " ".join(_bare(text).split()).casefold()
