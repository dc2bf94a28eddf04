"""Texts that are most like others, by TF-IDF of their groups of characters.

Groups of characters need no words, so that languages without spaces work too. The library is scikit-learn,
the extra ``quality``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_GROUP_SIZES = (3, 5)
# Similarities that differ less are equal, so that the order does not depend on the machine.
_DIGITS = 9
_TEXTS_AT_ONCE = 500


class NearestTexts:
    """Finds among ``texts`` those that are most like other texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._vectorizer: Any = _vectorizer()
        # Its transposed form, since each similarity is a product of two vectors of length 1.
        self._columns: Any = self._vectorizer.fit_transform([_with_content(text) for text in texts]).T.tocsc()

    def of(self, texts: Sequence[str], count: int) -> list[list[int]]:
        """For each of these texts the indices of the ``count`` most similar ones, the most similar first."""
        nearest: list[list[int]] = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            chunk = [_with_content(text) for text in texts[start : start + _TEXTS_AT_ONCE]]
            found: Any = (self._vectorizer.transform(chunk) @ self._columns).toarray()
            nearest += (-found.round(_DIGITS)).argsort(kind="stable", axis=1)[:, :count].tolist()
        return nearest


def _with_content(text: str) -> str:
    """The text; a mark for one of spaces alone, of which the library makes nothing."""
    return text if text.strip() else "_"


def _vectorizer() -> Any:
    """The vectorizer of scikit-learn, which takes seconds to load and has no complete types."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415

    return TfidfVectorizer(analyzer="char_wb", ngram_range=_GROUP_SIZES, sublinear_tf=True)
