"""Rows for a review and the judgements of persons, as all review files hold them.

The texts are those of ``answer_form``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewTask:
    """A row for a review.

    ``texts`` are the values of the answer by field; empty without an answer. ``score`` says how certain the
    answer is, None if that is unknown. ``is_random``: the row was drawn at random. ``reason`` says why the
    row is in the review, ``agreement`` is the share of equal answers, ``gold`` the text of the known value;
    None if unknown. These three are for the reader alone.
    """

    run_id: str
    row_id: str
    row_key: str
    prompt: str
    texts: Mapping[str, str | None]
    score: float | None
    model_ref: str | None
    is_random: bool
    reason: str = ""
    agreement: float | None = None
    gold: str | None = None

    @property
    def remarks(self) -> dict[str, str | float]:
        """What is known of ``agreement``, ``gold`` and ``reason``, by these names."""
        found = {"agreement": self.agreement, "gold": self.gold, "reason": self.reason or None}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The judgement of a review file about a row.

    ``texts`` are the values of the answer by field; None if the row was not judged. ``run_id``, ``row_key``,
    ``answered_by`` and ``is_random`` are None if the file does not say them. ``fault`` says why the judgement
    cannot be used.
    """

    row_id: str
    run_id: str | None = None
    row_key: str | None = None
    texts: Mapping[str, str | None] | None = None
    answered_by: str | None = None
    note: str | None = None
    is_random: bool | None = None
    fault: str | None = None
