"""Votes: several answers to one row, and the one that most of them give. Pure.

Each field is voted on separately. A row takes the whole answer of one vote, the one that has the majority in
most fields, so that no answer is composed of parts that no model gave together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opencode_tasks.domain.answer_shape import shape_of
from opencode_tasks.domain.columns import RESPONSE
from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.quality.gold import MAX_CLASSES, GoldKind, comparable, kind_of

# Numbers in memory at a time.
MATRIX_CELLS = 10_000_000
_WHOLE_NUMBERS = frozenset({"integer"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VotedField:
    """A field that is voted on, and how its values are compared; ``name`` None for the whole answer."""

    name: str | None
    kind: GoldKind

    @property
    def title(self) -> str:
        """The name of the column with the values."""
        return self.name or RESPONSE.name

    def of(self, answer: Any) -> Any:
        """The value of the field in an answer; None if the answer lacks it."""
        return answer if self.name is None else mapping_in(answer).get(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Result of the votes on a row so far.

    ``chosen`` is the index of the vote whose answer the row takes, None if no vote has an answer.
    ``agreement`` is the share of the votes with an answer that equal it, from 0 to 1, as the mean over the
    fields; None without an answer. ``is_tie``: another answer has as many votes. ``is_decided``: further
    votes cannot change the majority, or none of those that were asked has an answer.
    """

    chosen: int | None
    agreement: float | None
    is_tie: bool
    is_decided: bool


def voted_fields(schema: Mapping[str, Any] | None) -> tuple[VotedField, ...]:
    """The fields that are voted on: those with labels, truth values or whole numbers; without one, all."""
    if schema is None:
        return (VotedField(name=None, kind="text"),)
    shape = shape_of(schema)
    if not shape.is_object or not shape.fields:
        return (VotedField(name=None, kind=kind_of(shape.types, shape.labels)),)
    fields = [
        (VotedField(name=name, kind=kind_of(types, shape.field_labels.get(name, ()))), types)
        for name, types in shape.fields.items()
    ]
    labels = [
        one
        for one, types in fields
        if one.kind == "label" or (types or frozenset()) - {"null"} == _WHOLE_NUMBERS
    ]
    return tuple(labels) or tuple(one for one, _ in fields)


def first_votes(votes: int) -> int:
    """The number of votes without which no answer can have a majority."""
    return votes // 2 + 1


def tally(
    answers: Sequence[Any], has_answer: Sequence[bool], fields: Sequence[VotedField], votes: int
) -> Tally:
    """Count the votes on a row that have ended, in their order, out of ``votes`` in all."""
    valid = [number for number, one in enumerate(has_answer) if one]
    left = max(0, votes - len(answers))
    if not valid:
        return Tally(
            chosen=None,
            agreement=None,
            is_tie=False,
            is_decided=not left or len(answers) >= first_votes(votes),
        )
    texts = {number: comparable_fields(answers[number], fields) for number in valid}
    counts = [Counter(texts[number][at] for number in valid) for at in range(len(fields))]
    best = [max(count.values()) for count in counts]
    # The first vote with one of the most frequent answers, in as many fields as possible.
    chosen = max(
        valid,
        key=lambda number: (
            sum(count[text] == most for text, count, most in zip(texts[number], counts, best, strict=True)),
            -number,
        ),
    )
    leads = [
        most - max((n for other, n in count.items() if other != text), default=0)
        for text, count, most in zip(texts[chosen], counts, best, strict=True)
    ]
    shares = [count[text] / len(valid) for text, count in zip(texts[chosen], counts, strict=True)]
    return Tally(
        chosen=chosen,
        agreement=sum(shares) / len(shares),
        is_tie=any(lead <= 0 for lead in leads),
        is_decided=not left or all(lead > left for lead in leads),
    )


def comparable_fields(answer: Any, fields: Sequence[VotedField]) -> list[str | None]:
    """The texts by which the fields of an answer are compared."""
    return [comparable(one.of(answer), one.kind) for one in fields]


def kept_answer(answer: Any, fields: Sequence[VotedField]) -> Any:
    """The part of an answer that is voted on, as the column ``votes`` shows it."""
    if fields[0].name is None:
        return answer
    return {one.title: one.of(answer) for one in fields}


def alpha(answers: Sequence[Sequence[Any]], field: VotedField) -> float | None:
    """Krippendorff's alpha of the votes in a field: nominal, for numbers interval.

    ``answers`` holds for each row what its votes answered, as ``kept_answer`` gives it; None for a vote
    without an answer. The first rows count if there are many. None if no row has two answers, if all answers
    are equal, if there are more than 50 different ones, or without the library.
    """
    try:
        import krippendorff  # noqa: PLC0415  of the extra ``quality``
    except ImportError:
        return None
    units = [[field.of(one) for one in of_row if one is not None] for of_row in answers]
    texts = [[text for one in unit if (text := comparable(one, field.kind)) is not None] for unit in units]
    texts = [unit for unit in texts if len(unit) > 1]
    known = sorted({text for unit in texts for text in unit})
    if not 1 < len(known) <= MAX_CLASSES:
        return None
    # The library has a matrix of the values for each row.
    texts = texts[: MATRIX_CELLS // len(known) ** 2]
    if len({text for unit in texts for text in unit}) < len(known):
        known = sorted({text for unit in texts for text in unit})
    if len(known) == 1:
        return None
    number_of = {text: number for number, text in enumerate(known)}
    counts = np.zeros((len(texts), len(known)), dtype=np.int64)
    for unit, line in zip(texts, counts, strict=True):
        for text in unit:
            line[number_of[text]] += 1
    if field.kind != "number":
        return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))
    domain = np.array([float(text) for text in known])
    order = np.argsort(domain)
    return float(
        krippendorff.alpha(
            value_counts=counts[:, order], value_domain=domain[order], level_of_measurement="interval"
        )
    )
