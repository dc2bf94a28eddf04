"""Comparison of two sets of answers to the same rows. Pure.

The statistics come from scikit-learn and scipy, the extra ``quality``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opencode_tasks.quality.gold import MAX_CLASSES, NULL, GoldKind, comparable, kappa_of, statistics

# p-value below which a difference of accuracies is called one.
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedAnswer:
    """A row with two different answers, as JSON values. ``gold`` is the known value; None without one."""

    row_id: str
    first: Any
    second: Any
    gold: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyDifference:
    """Accuracy of both answers over the ``n`` rows with a known value and two answers.

    ``only_first`` rows are right in the first answer alone, ``only_second`` in the second. ``p_value`` is
    that of McNemar's exact test: how likely so large a difference is if both are equally good.
    """

    n: int
    first: float
    second: float
    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldComparison:
    """Answers of two runs to the same rows, in one field.

    ``n`` rows have both answers, ``changed`` have different ones. ``kappa`` is Cohen's; None for texts and
    numbers, and if it is not defined. ``accuracy`` is None without known values. ``confusion`` counts the
    rows by the first and by the second answer, in the order of ``labels``; both are empty for texts and
    numbers, and if there are more than 50 labels. ``conflicting_gold`` rows have another known value in each
    run, and count as rows without one.
    """

    field: str
    kind: GoldKind
    n: int
    changed: Sequence[ChangedAnswer]
    kappa: float | None
    accuracy: AccuracyDifference | None
    labels: Sequence[str] = ()
    confusion: Sequence[Sequence[int]] = ()
    conflicting_gold: int = 0

    @property
    def agreement(self) -> float | None:
        """Share of rows with equal answers; None without a row."""
        return (self.n - len(self.changed)) / self.n if self.n else None

    def is_right(self, answer: Any, gold: Any) -> bool:
        """Whether an answer equals a known value."""
        return comparable(answer, self.kind) == comparable(gold, self.kind)


def compare(field: str, kind: GoldKind, answers: Sequence[ChangedAnswer]) -> FieldComparison:
    """Compare the answers of rows that have both, equal or not."""
    first = [comparable(one.first, kind) or NULL for one in answers]
    second = [comparable(one.second, kind) or NULL for one in answers]
    changed = [one for one, a, b in zip(answers, first, second, strict=True) if a != b]
    labels, confusion = _confusion(first, second) if kind == "label" else ((), ())
    return FieldComparison(
        field=field,
        kind=kind,
        n=len(answers),
        changed=changed,
        kappa=kappa_of(first, second) if kind == "label" else None,
        accuracy=_accuracy(kind, answers),
        labels=labels,
        confusion=confusion,
    )


def _confusion(first: Sequence[str], second: Sequence[str]) -> tuple[Sequence[str], Sequence[Sequence[int]]]:
    """The labels, and the numbers of rows by both; empty if there are too many labels."""
    labels = sorted({*first, *second})
    if len(labels) > MAX_CLASSES:
        return (), ()
    counts = Counter(zip(first, second, strict=True))
    return labels, [[counts[one, other] for other in labels] for one in labels]


def _accuracy(kind: GoldKind, answers: Sequence[ChangedAnswer]) -> AccuracyDifference | None:
    right = [
        (comparable(one.first, kind) == gold, comparable(one.second, kind) == gold)
        for one in answers
        if (gold := comparable(one.gold, kind)) is not None
    ]
    if not right:
        return None
    only_first = sum(a and not b for a, b in right)
    only_second = sum(b and not a for a, b in right)
    differing = only_first + only_second
    p_value = statistics().binomtest(only_first, differing, 0.5).pvalue if differing else 1.0
    return AccuracyDifference(
        n=len(right),
        first=sum(a for a, _ in right) / len(right),
        second=sum(b for _, b in right) / len(right),
        only_first=only_first,
        only_second=only_second,
        p_value=float(p_value),
    )
