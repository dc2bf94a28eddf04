"""The label that the text of an answer names. Pure.

A text names a label if it is the label, or a sentence that says nothing else. Everything else is refused:
a text with a negation, with two labels or with a reason names none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from opencode_tasks.domain.text import composed

# Quotation marks, the marks of Markdown, and characters without width that some servers send first.
_MARKS = " \t\r\n\"'`*_“”‘’«»\ufeff\u200b"  # noqa: RUF001  these are the quotation marks
_FENCE = re.compile(r"\s*```[\w-]*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
_WORD = r"[^\W\d_]+"
_NOUN = rf"(?:(?:final|correct|right|best|overall) )?{_WORD}(?: of (?:the|this) {_WORD})?"
_COLON = r" ?[\"'`*_]*[:：][\"'`*_]* ?"  # noqa: RUF001  the colon of Chinese and Japanese
_SENTENCE = re.compile(
    rf"(?P<lead>(?:{_WORD} )?{_WORD}{_COLON}"
    rf"|(?:it|this|that|(?:the|this|my) {_NOUN}) is(?: an?)?(?:{_COLON}| ))(?P<label>.+)",
    re.IGNORECASE,
)
# Words before a label that is not the answer, or not alone.
_OTHER_MEANING = re.compile(
    r"\b(?:no|not|non|none|nor|never|neither|nothing|without|cannot|except|excluding|excluded|hardly|barely|rarely"
    r"|wrong|incorrect|invalid|false|untrue|unlikely|improbable|impossible|least|less|doubtful|rejected"
    r"|opposite|contrary|contrast|reverse|inverse|other|another|alternative|instead|second|previous|former|possible"
    r"|nein|nicht|kein|keine|falsch|pas|jamais|aucun|faux|ni|nunca|falso|não|niet|geen)\b|[不非没否反错]",
    re.IGNORECASE,
)


def label_in(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that a text names; None if it names none.

    The text is the label, or ``Word: label``, ``Two words: label``, ``It is label``, ``The word is label``,
    ``The word of the word is label`` (also with "this", "that" and "my", "final" and the like before the
    word, and "a" before the label). The words before the label must not be another label, a negation or a
    word such as "opposite". Case, white space, quotation marks, the marks of Markdown, a full stop at the
    end and the form of accents in Unicode do not count. If labels differ by these alone, the text must have the label exactly.
    """
    whole = text.strip()
    if exact := [one for one in labels if composed(one) == composed(whole)]:
        return whole if whole in exact else exact[0]
    plain = composed(" ".join(_bare(text).split()))
    sentence = _SENTENCE.fullmatch(plain)
    found = [
        label
        for label in labels
        if _is_same(plain, label)
        or (
            sentence is not None
            and _is_same(sentence["label"], label)
            and not _has_other_meaning(sentence["lead"], set(labels) - {label})
        )
    ]
    return found[0] if len(found) == 1 else None


def without_fence(text: str) -> str:
    """Return a text without white space around it, and the content of one that is a single code fence."""
    fence = _FENCE.fullmatch(text)
    return (text if fence is None or "```" in fence[1] else fence[1]).strip()


def _has_other_meaning(lead: str, others: Collection[str]) -> bool:
    """Whether the words before a label are, or contain, another label or a negation."""
    words = " ".join(re.findall(_WORD, lead.casefold()))
    return _OTHER_MEANING.search(words) is not None or any(
        f" {_folded(label)} " in f" {words} " for label in others
    )


def _is_same(text: str, label: str) -> bool:
    return _folded(text) == _folded(label) != ""


def _bare(text: str) -> str:
    return text.strip(_MARKS).removesuffix(".").removesuffix("!").strip(_MARKS)


def _folded(text: str) -> str:
    return composed(" ".join(_bare(text).split()).casefold())
