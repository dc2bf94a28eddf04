"""The label that the text of an answer names. Pure.

A text names a label if it is the label, or a sentence that says nothing else. Everything else is refused:
a text with a negation, with two labels or with a reason names none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from opencode_tasks.domain.text import composed

# Quotation marks, the marks of Markdown, and characters without width that some models send.
_QUOTES = "\"'“”„‘’‚«»‹›「」『』《》〈〉"  # noqa: RUF001
_MARKS = f" \t\r\n`*_{_QUOTES}\ufeff\u200b\u200c\u200d\u200e\u200f\u2060"
_APOSTROPHES = str.maketrans("’ʼ", "''")  # noqa: RUF001
_END = re.compile("[.!。！．｡]{1,2}$")  # noqa: RUF001
_FENCE = re.compile(r"\s*```[\w-]*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
# Tokens of chat templates that some servers leave at the end.
_END_TOKENS = re.compile(r"(?:(?:</s>|<\|\w+\|>|<end_of_turn>|<eos>)\s*)+$")
# A list item, a quotation or a heading of Markdown. Before a number, a dash may be its sign.
_LINE_MARK = re.compile(r"(?:[-+>•]|#{1,6}) +(?=[^\W\d]|[*\"'`“„(])")
_WRAPPED = re.compile(
    r"\(([^()]+)\)|\$*\\boxed\{([^{}\\]+)\}\$*|\$*\\boxed\{\\text\{([^{}]+)\}\}\$*|<(?P<tag>\w+)>([^<>]+)</(?P=tag)>"
)
_TAG = _WRAPPED.groupindex["tag"]
_COLON = r" ?[\"'`*_]*[:：][\"'`*_]* ?"  # noqa: RUF001
# The words that may stand before a label: names of an answer. Any other word may change its meaning.
_NAMES = frozenset(
    """
    answer category choice class classification conclusion decision department emotion final genre intent kind
    label language mood output overall polarity prediction priority rating response result score sentiment
    severity stance status subject tag team theme tone topic type urgency verdict
    antwort bewertung entscheidung ergebnis kategorie klasse stimmung thema urteil
    réponse résultat catégorie classe étiquette sujet thème
    respuesta resultado categoría clase etiqueta sentimiento tema
    risposta risultato categoria etichetta argomento
    resposta rótulo sentimento antwoord resultaat categorie
    ответ результат категория класс метка тема тональность
    답 답변 정답 결과 감정 분류 레이블
    """.split()  # noqa: SIM905  a word list
)
# The same in Chinese and Japanese, which have no spaces: answer, sentiment, label, category, class, result.
_SPACELESS = (
    "(?:最终|最終)?(?:答案|回答|答え|情感|情绪|情緒|感情|标签|標籤|ラベル|"
    "类别|類別|分类|分類|カテゴリ|结果|結果)"
)
_THINGS = (
    "article|comment|conversation|customer|document|email|input|item|mail|message|passage|post|prompt|question"
    "|review|row|sentence|statement|text|ticket|tweet"
)


def label_in(text: str, labels: Sequence[str], names: Collection[str] = ()) -> str | None:
    """Return the label that a text names; None if it names none.

    The text is the label, or ``Name: label``, ``It is label`` or ``The name is label``. A name is a word such
    as "answer" or "sentiment", or one of ``names``; "the", "this" or "my", "final" and the like and another
    name may precede it, "of the review" and the like may follow, and "a" may precede the label. No word
    before the label is another label. Case, white space, quotation marks, the marks of Markdown, brackets
    around the label, a full stop at the end, tokens of chat templates and the form of accents in Unicode do
    not count. If labels differ by these alone, the text must have the label exactly.
    """
    whole = text.strip()
    if exact := [one for one in labels if composed(one) == composed(whole)]:
        return whole if whole in exact else exact[0]
    plain = _unwrapped(text)
    for one in (text, plain):
        if found := [label for label in labels if _is_same(one, label)]:
            return found[0] if len(found) == 1 else None
    sentence = _sentence(frozenset(map(_folded, names))).fullmatch(plain)
    if sentence is None:
        return None
    found = [label for label in labels if _is_same(_unwrapped(sentence["label"]), label)]
    if len(found) != 1 or _has_label(plain[: sentence.start("label")], {*labels} - {*found}):
        return None
    return found[0]


def without_fence(text: str) -> str:
    """Return a text without white space around it, and the content of one that is a single code fence."""
    fence = _FENCE.fullmatch(text)
    return (text if fence is None or "```" in fence[1] else fence[1]).strip()


@lru_cache(maxsize=16)
def _sentence(more_names: frozenset[str]) -> re.Pattern[str]:
    """The sentences of which the rest is the label. ``more_names`` are names of the answer, folded."""
    name = "|".join(map(re.escape, sorted(more_names | _NAMES, key=len, reverse=True)))
    lead = (
        rf"(?:(?:the|this|my) )?(?:(?:final|correct|right|best|overall) )?(?:(?:{name}) )?(?:{name})"
        rf"(?: of (?:the|this) (?:{_THINGS}))?"
    )
    verb = rf"(?: is|'s)(?: an?)?(?:{_COLON}| )"
    spaceless = rf"{_SPACELESS}(?:{_COLON}|(?:是|为|為|は)(?:{_COLON})?)"
    return re.compile(
        rf"(?:{lead}(?:{_COLON}|{verb})|(?:it|this|that){verb}|{spaceless})(?P<label>.+)", re.IGNORECASE
    )


def _has_label(lead: str, labels: Collection[str]) -> bool:
    """Whether the words before a label are, or contain, another label."""
    words = " ".join(re.findall(r"[^\W\d_]+", lead.casefold()))
    return any(f" {_folded(label)} " in f" {words} " for label in labels)


def _is_same(text: str, label: str) -> bool:
    return _folded(text) == _folded(label) != ""


def _unwrapped(text: str) -> str:
    """A text in one line, without brackets, tags and line marks around all of it."""
    plain = composed(" ".join(_bare(_END_TOKENS.sub("", text)).split())).translate(_APOSTROPHES)
    plain = _bare(_LINE_MARK.sub("", plain, count=1) if _LINE_MARK.match(plain) else plain)
    found = _WRAPPED.fullmatch(plain)
    if found is None or (found["tag"] is not None and found["tag"].casefold() not in _NAMES):
        return plain
    return _bare(next(part for at, part in enumerate(found.groups(), 1) if part is not None and at != _TAG))


def _bare(text: str) -> str:
    return _END.sub("", text.strip(_MARKS)).strip(_MARKS)


def _folded(text: str) -> str:
    return composed(" ".join(_bare(text).split()).casefold()).translate(_APOSTROPHES)
