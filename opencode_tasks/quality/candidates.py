"""Candidates for a task: models measured on rows with known answers, and which of them can still win. Pure.

The cheapest candidate wins whose share of correct labels reaches the target.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from opencode_tasks.quality.gold import interval

# Candidates are looked at several times, so that one is dropped only if it is surely worse.
DROP_CONFIDENCE = 0.99
_DROP_DEVIATIONS = statistics.NormalDist().inv_cdf(0.5 + DROP_CONFIDENCE / 2)
# With fewer rows, nothing is sure.
MIN_ROWS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model with its variant, None for the model's own effort."""

    model: str
    variant: str | None

    @property
    def name(self) -> str:
        """The name as the option ``--model`` takes it."""
        return self.model if self.variant is None else f"{self.model}#{self.variant}"

    @classmethod
    def of(cls, name: str) -> Candidate:
        """The candidate with this name, ``provider/model`` or ``provider/model#variant``."""
        model, _, variant = name.partition("#")
        return cls(model=model, variant=variant or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A candidate on rows with known answers.

    Attributes:
        candidate: The model.
        rows: Number of rows that it was asked.
        correct: Number of right answers. A row without an answer is not correct.
        errors: Type of the error of each row without an answer.
        costs_usd: Cost of each row in USD with all its attempts; None if a part of it is unknown.
        seconds: Time of each answer in seconds; those of earlier runs are left out.
    """

    candidate: Candidate
    rows: int = 0
    correct: int = 0
    errors: Sequence[str] = ()
    costs_usd: Sequence[float | None] = ()
    seconds: Sequence[float] = ()

    def plus(self, other: Measured) -> Measured:
        """The candidate on the rows of both, which have no row in common."""
        return Measured(
            candidate=self.candidate,
            rows=self.rows + other.rows,
            correct=self.correct + other.correct,
            errors=[*self.errors, *other.errors],
            costs_usd=[*self.costs_usd, *other.costs_usd],
            seconds=[*self.seconds, *other.seconds],
        )

    @property
    def accuracy(self) -> float | None:
        """Share of the rows with a right answer; None without a row."""
        return self.correct / self.rows if self.rows else None

    def accuracy_interval(self, confidence: float = 0.95) -> tuple[float | None, float | None]:
        """The Wilson interval of the accuracy; None twice without a row."""
        return interval(self.correct, self.rows, confidence)

    @property
    def row_usd(self) -> float | None:
        """Mean cost of a row in USD; None if a part is unknown."""
        known = [cost for cost in self.costs_usd if cost is not None]
        return sum(known) / len(known) if known and len(known) == len(self.costs_usd) else None

    @property
    def label_usd(self) -> float | None:
        """Price of a correct label in USD: the cost of all rows, for each right answer; None if unknown."""
        if self.row_usd is None or not self.correct:
            return None
        return self.row_usd * self.rows / self.correct

    @property
    def row_seconds(self) -> float | None:
        """Median time of an answer in seconds; None if no row was sent."""
        return statistics.median(self.seconds) if self.seconds else None

    def reaches(self, target: float) -> bool:
        """Whether the share of correct labels is at least the target."""
        return self.accuracy is not None and self.accuracy >= target


def drop_reason(one: Measured, others: Sequence[Measured], target: float) -> str | None:
    """Why a candidate cannot win any more; None if it can."""
    _, high = one.accuracy_interval(DROP_CONFIDENCE)
    if one.rows < MIN_ROWS or high is None:
        return None
    if high < target:
        return f"at most {high:.1%} are correct"
    most = _row_interval(one)
    for other in others:
        low, _ = other.accuracy_interval(DROP_CONFIDENCE)
        theirs = _row_interval(other)
        if low is None or low < target or most is None or theirs is None or other.rows < MIN_ROWS:
            continue
        if theirs[1] < most[0]:
            return f"{other.candidate.name} reaches the target and costs less"
    return None


def winner(measured: Sequence[Measured], target: float) -> Measured | None:
    """The cheapest candidate that reaches the target; None if none does.

    Among those of unknown cost the most accurate one, after all others.
    """
    reached = [one for one in measured if one.reaches(target)]
    return min(
        reached,
        key=lambda one: (math.inf if one.row_usd is None else one.row_usd, -(one.accuracy or 0.0)),
        default=None,
    )


def rows_to_be_sure(one: Measured, target: float, confidence: float = 0.95) -> int | None:
    """How many rows in all would tell, at this accuracy, that the candidate reaches the target.

    None if no number would, because its accuracy is the target or less.
    """
    accuracy = one.accuracy
    if accuracy is None or accuracy <= target:
        return None
    deviations = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
    # The lower end of the Wilson interval is the target where (p - t)² = z² t (1 - t) / n.
    return math.ceil(deviations**2 * target * (1 - target) / (accuracy - target) ** 2)


def _row_interval(one: Measured) -> tuple[float, float] | None:
    """Interval of the mean cost of a row; None if the cost is unknown."""
    mean = one.row_usd
    known = [cost for cost in one.costs_usd if cost is not None]
    if mean is None or len(known) < 2:  # noqa: PLR2004  one cost has no deviation
        return None
    half = _DROP_DEVIATIONS * statistics.stdev(known) / math.sqrt(len(known))
    return mean - half, mean + half
