"""Choice of the rows that a person reviews: the least certain ones, and some at random. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

CONFIDENCE_FIELDS = ("confidence", "score", "probability")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A row that may be reviewed, by its position.

    ``agreement`` is the share of equal answers if several were requested, ``confidence`` that of the answer
    itself; None if unknown. ``differs``: the answer differs from a gold value.
    """

    position: int
    has_answer: bool
    needs_review: bool = False
    agreement: float | None = None
    confidence: float | None = None
    differs: bool = False

    @property
    def score(self) -> float | None:
        """How certain the answer is; None if unknown."""
        return self.confidence if self.agreement is None else self.agreement


def confidence_in(structured: Mapping[str, Any]) -> float | None:
    """The number in a field of an answer that names its confidence; None without one."""
    for name in CONFIDENCE_FIELDS:
        value = structured.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def least_certain_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates in the order in which a review helps most; equal ones by position."""
    return sorted(candidates, key=_doubt)


def _doubt(one: Candidate) -> tuple[int, float, int]:
    if one.needs_review:
        return 0, 0.0, one.position
    if not one.has_answer:
        return 1, 0.0, one.position
    if one.differs:
        return 2, 0.0, one.position
    if one.agreement is not None:
        return 3, one.agreement, one.position
    if one.confidence is not None:
        return 4, one.confidence, one.position
    return 5, 0.0, one.position


def reason_for(one: Candidate, *, is_random: bool) -> str:
    """Why a row is in a review, and at its place in it. Of a row drawn at random, its doubt is named too."""
    doubt = _doubt_text(one)
    if is_random:
        return "random" if doubt is None else f"random, {doubt}"
    return "no doubt known" if doubt is None else doubt


def _doubt_text(one: Candidate) -> str | None:
    """The doubt that decides the place of a row in ``least_certain_first``; None without one."""
    if one.needs_review:
        return "needs review"
    if not one.has_answer:
        return "no answer"
    if one.differs:
        return "differs from gold"
    if one.agreement is not None:
        return "low agreement" if one.agreement < 1 else None
    return None if one.confidence is None else "by confidence"


def choose(
    candidates: Sequence[Candidate], *, limit: int | None, share: float, seed: str
) -> tuple[list[Candidate], list[Candidate]]:
    """The least certain candidates, and those drawn at random; at most ``limit`` together.

    The share of random ones is drawn first, from all candidates with an answer, so that they show how good
    all answers are. They are in the order of their positions: a person who stops early has then judged some
    of them that were not chosen for their doubt. The others are the least certain of the rest.
    """
    count = len(candidates) if limit is None else min(limit, len(candidates))
    answered = [one for one in candidates if one.has_answer]
    wanted = min(len(answered), round(count * share) or (1 if share and count else 0))
    # No secret depends on it.
    drawn = Random(seed).sample(answered, wanted)  # noqa: S311
    positions = {one.position for one in drawn}
    rest = [one for one in candidates if one.position not in positions]
    return least_certain_first(rest)[: count - wanted], sorted(drawn, key=lambda one: one.position)
