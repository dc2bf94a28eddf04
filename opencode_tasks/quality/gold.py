"""Quality of answers whose correct values are known: accuracy, errors of each class, agreement. Pure.

The statistics come from scikit-learn and scipy, the extra ``quality``.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from importlib.util import find_spec
from typing import Any, Literal

from opencode_tasks.domain.extras import install_hint
from opencode_tasks.domain.text import composed
from opencode_tasks.errors import SetupError

GoldKind = Literal["label", "number", "text"]
CONFIDENCE = 0.95
MAX_CLASSES = 50
"""A field with more different values has no table of classes."""

_SPACE = re.compile(r"\s+")
# Marks of sentences and quotations: no sign of a number or a name, such as - % # or +.
_MARKS = ".,;:!?\u2026\"'\u2018\u2019\u201c\u201d\u00ab\u00bb\u3002\uff0c\u3001\u00bf\u00a1()[]"
NULL = "null"
_TRUE, _FALSE = ("true", "false")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassQuality:
    """Quality of one label.

    Attributes:
        label: The label.
        precision: Share of the rows with this answer whose correct value it is.
        recall: Share of the rows with this correct value that have it as their answer.
        f1: Harmonic mean of precision and recall.
        n: Number of rows with this correct value.

    Examples:
        >>> from opencode_tasks import ClassQuality
        >>> ClassQuality(label="positive", precision=0.9, recall=0.8, f1=0.847, n=10).n
        10
    """

    label: str
    precision: float
    recall: float
    f1: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldQuality:
    """Quality of one field of the answers, compared with known values.

    Attributes:
        field: Name of the field; ``response`` for answers without fields.
        kind: ``label`` for values of a small set, ``number``, or ``text`` for other texts, which are compared
            without case, forms of width, marks of sentences at their ends and repeated spaces.
        n: Number of rows with a known value and an answer.
        unanswered: Number of rows with a known value that failed or are open. They are in no other figure.
        correct: Number of answers that equal the known value.
        low: Lower end of the 95 % Wilson interval of the accuracy; None without a row.
        high: Upper end of that interval.
        kappa: Cohen's kappa; None if it is not defined, or for texts.
        mae: Mean absolute error of numbers; None for other kinds.
        classes: Quality of each label; empty for numbers and texts.
        confusion: Rows by known value and by answer, in the order of ``classes``; empty for other kinds.
        left_out: Number of rows with a known value that a person has answered and the run did not send: the
            model has no answer with these settings. They are in no other figure.

    Examples:
        >>> from opencode_tasks import FieldQuality
        >>> quality = FieldQuality(
        ...     field="response", kind="label", n=10, unanswered=0, correct=9, low=0.6, high=0.98
        ... )
        >>> quality.accuracy
        0.9
    """

    field: str
    kind: GoldKind
    n: int
    unanswered: int
    correct: int
    low: float | None
    high: float | None
    kappa: float | None = None
    mae: float | None = None
    classes: tuple[ClassQuality, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    left_out: int = 0

    @property
    def accuracy(self) -> float | None:
        """Share of correct answers; None without a row."""
        return self.correct / self.n if self.n else None


def has_extra() -> bool:
    """Return whether the libraries of the extra ``quality`` are installed."""
    return find_spec("sklearn") is not None


def require_extra(user: str) -> None:
    """Raise SetupError if the libraries of the extra ``quality``, which ``user`` needs, are not installed."""
    if not has_extra():
        raise SetupError(
            "unknown",
            raw_message=f"{user} needs scikit-learn, which is not installed",
            hint=install_hint("quality"),
        )


def kind_of(types: frozenset[str] | None, labels: Sequence[str]) -> GoldKind:
    """Kind of a field with these JSON types and labels; ``types`` is None or empty if they are unknown."""
    known = (types or frozenset()) - {"null"}
    if labels or known == frozenset({"boolean"}):
        return "label"
    if known and known <= {"integer", "number"}:
        return "number"
    return "text"


def comparable(value: Any, kind: GoldKind) -> str | None:
    """The text by which a value is compared; None for a missing value.

    ``true`` and ``True`` are equal, as are the numbers 7 and 7.0, and both forms of an accent in Unicode.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    if not isinstance(value, str | int | float | Decimal):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    text = str(value).strip()
    if kind == "number" or not isinstance(value, str):
        return _number_text(text)
    if kind == "text":
        return normalized(text)
    return text.lower() if text.lower() in (_TRUE, _FALSE) else composed(text)


def normalized(text: str) -> str:
    """A text without case, forms of width, repeated spaces, and marks of sentences at its ends."""
    folded = _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip().casefold()
    return folded.strip(_MARKS + " ") or folded


def measure(field: str, kind: GoldKind, pairs: Sequence[tuple[Any, Any]], unanswered: int) -> FieldQuality:
    """Quality of a field, from pairs of the known value and the answer, which is None for null."""
    known = [comparable(value, kind) or NULL for value, _ in pairs]
    answers = [comparable(value, kind) or NULL for _, value in pairs]
    correct = sum(a == b for a, b in zip(known, answers, strict=True))
    low, high = interval(correct, len(pairs))
    found = FieldQuality(
        field=field, kind=kind, n=len(pairs), unanswered=unanswered, correct=correct, low=low, high=high
    )
    match kind:
        case "number":
            return replace(found, mae=_mean_error(pairs))
        case "label":
            return _with_classes(found, known, answers)
        case "text":
            return found


def interval(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """The Wilson interval of a share; None twice if ``n`` is 0."""
    if not n:
        return None, None
    found = statistics().binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def _with_classes(found: FieldQuality, known: Sequence[str], answers: Sequence[str]) -> FieldQuality:
    """The quality with the figures of each label; without them if there are too many labels."""
    labels = sorted({*known, *answers})
    if len(labels) == 1:
        # Chance agrees always, so that kappa is not defined.
        only = ClassQuality(label=labels[0], precision=1.0, recall=1.0, f1=1.0, n=found.n)
        return replace(found, classes=(only,), confusion=((found.n,),))
    if not labels or len(labels) > MAX_CLASSES:
        return found
    api = metrics()
    scores = api.precision_recall_fscore_support(known, answers, labels=labels, zero_division=0.0)
    matrix = api.confusion_matrix(known, answers, labels=labels)
    return replace(
        found,
        kappa=kappa_of(known, answers),
        classes=tuple(
            ClassQuality(label=label, precision=float(p), recall=float(r), f1=float(f), n=int(n))
            for label, p, r, f, n in zip(labels, *scores, strict=True)
        ),
        confusion=tuple(tuple(int(count) for count in row) for row in matrix),
    )


def kappa_of(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cohen's kappa of two lists of labels; None if it is not defined: without rows, or with one label."""
    if len({*first, *second}) < 2:  # noqa: PLR2004
        return None
    return float(metrics().cohen_kappa_score(first, second))


def _mean_error(pairs: Sequence[tuple[Any, Any]]) -> float | None:
    """Mean absolute error of the pairs in which both values are numbers; None without one."""
    numbers = [(_number(a), _number(b)) for a, b in pairs]
    known = [(float(a), float(b)) for a, b in numbers if a is not None and b is not None]
    # An integer of hundreds of digits is infinite as a float.
    if not known or not all(math.isfinite(a) and math.isfinite(b) for a, b in known):
        return None
    return float(metrics().mean_absolute_error(*zip(*known, strict=True)))


def statistics() -> Any:
    """Statistics of scipy, which take a second to load and have no complete types."""
    import scipy.stats  # noqa: PLC0415

    return scipy.stats


def metrics() -> Any:
    """Metrics of scikit-learn, which take seconds to load and have no complete types."""
    import sklearn.metrics  # noqa: PLC0415

    return sklearn.metrics


def _number(value: Any) -> Decimal | None:
    try:
        found = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


def _number_text(value: Any) -> str:
    number = _number(value)
    return str(value).strip() if number is None else format(number.normalize(), "f")


def quality_json(qualities: Sequence[FieldQuality]) -> Mapping[str, Mapping[str, Any]]:
    """The qualities by field as JSON objects."""
    return {
        one.field: {
            "accuracy": one.accuracy,
            "low": one.low,
            "high": one.high,
            "n": one.n,
            "unanswered": one.unanswered,
            "left_out": one.left_out,
            "kind": one.kind,
            "kappa": one.kappa,
            "mae": one.mae,
            "classes": [
                {"label": c.label, "precision": c.precision, "recall": c.recall, "f1": c.f1, "n": c.n}
                for c in one.classes
            ],
            "confusion": [list(row) for row in one.confusion],
        }
        for one in qualities
    }
