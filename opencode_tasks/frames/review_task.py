"""Rows for a review and the judgements of persons, as all review files hold them.

A value of an answer is a text in these files: a text as it is, other values as their JSON, and null as no
text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opencode_tasks.domain.answer_shape import Types, shape_of
from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.frames.cells import json_text
from opencode_tasks.frames.columns import RESPONSE
from opencode_tasks.ledger.column_types import storable

BOOLEANS: Mapping[str, bool] = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewField:
    """A field of the answers. A person chooses among the texts ``choices``; empty for free texts."""

    name: str
    types: Types | None
    choices: tuple[str, ...] = ()

    @property
    def is_boolean(self) -> bool:
        """Whether its values are true and false."""
        return self.types is not None and self.types - {"null"} == frozenset({"boolean"})

    @property
    def is_text(self) -> bool:
        """Whether its values are texts, or may be."""
        return not self.types or "string" in self.types


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewTask:
    """A row for a review.

    ``texts`` are the values of the answer by field; empty without an answer. ``score`` says how certain the
    answer is, None if that is unknown. ``is_random``: the row was drawn at random.
    """

    run_id: str
    row_id: str
    row_key: str
    prompt: str
    texts: Mapping[str, str | None]
    score: float | None
    model_ref: str | None
    is_random: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a review file says about a row.

    ``texts`` are the values of the answer by field; None if nobody judged the row. ``run_id``,
    ``answered_by`` and ``is_random`` are None if the file does not say them. ``fault`` says why the
    judgement cannot be used.
    """

    row_id: str
    run_id: str | None = None
    texts: Mapping[str, str | None] | None = None
    answered_by: str | None = None
    note: str | None = None
    is_random: bool | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewForm:
    """The fields of the answers of a run; one, ``response``, for answers that are not objects."""

    fields: Sequence[ReviewField]
    is_object: bool

    def texts(self, answer: Any) -> dict[str, str | None]:
        """The texts of an answer by field."""
        return {field.name: value_text(self._value(answer, field)) for field in self.fields}

    def answer(self, texts: Mapping[str, str | None], model: Any) -> Any:
        """The answer that a person gave, made from that of the model (None without one).

        A value whose text was not changed stays as it is. A null that the schema does not allow is left out.
        """
        found = dict(mapping_in(model)) if self.is_object else model
        for field in self.fields:
            given, shown = texts.get(field.name), self._value(model, field)
            if not _is_changed(given, shown, field):
                continue
            value = _value(given, field)
            if not self.is_object:
                return value
            if value is None and "null" not in (field.types or ()):
                found.pop(field.name, None)
            else:
                found[field.name] = value
        return found

    def _value(self, answer: Any, field: ReviewField) -> Any:
        return mapping_in(answer).get(field.name) if self.is_object else answer


def review_form(schema: Mapping[str, Any] | None) -> ReviewForm:
    """The form of the answers that fit a schema; None for texts."""
    if schema is None:
        return ReviewForm(fields=(ReviewField(name=RESPONSE.name, types=None),), is_object=False)
    shape = shape_of(schema)
    if not shape.is_object:
        labels = shape.labels if shape.is_label else ()
        return ReviewForm(fields=(_field(RESPONSE.name, shape.types, labels),), is_object=False)
    fields = (_field(name, types, shape.field_labels.get(name, ())) for name, types in shape.fields.items())
    return ReviewForm(fields=tuple(fields), is_object=True)


def _field(name: str, types: Types | None, labels: Sequence[str]) -> ReviewField:
    field = ReviewField(name=name, types=types, choices=tuple(dict.fromkeys(labels)))
    if field.is_boolean:
        return ReviewField(name=name, types=types, choices=tuple(BOOLEANS))
    return field


def value_text(value: Any) -> str | None:
    """The text of a value of an answer; None for null."""
    return None if value is None else storable(value if isinstance(value, str) else json_text(value))


def is_empty(texts: Mapping[str, str | None]) -> bool:
    """Whether a judgement has no value at all."""
    return not any(map(_plain, texts.values()))


def _is_changed(text: str | None, value: Any, field: ReviewField) -> bool:
    given, shown = _plain(text), _plain(value_text(value))
    return given != shown and (field.is_text or _read(given) != _read(shown))


def _plain(text: str | None) -> str:
    """A text without what files and editors change: kinds of line ends, spaces around it."""
    return storable(text or "").replace("\r\n", "\n").replace("\r", "\n").strip()


def _value(text: str | None, field: ReviewField) -> Any:
    """The value that a text means; one that does not fit the field stays a text."""
    if text is None or not text.strip():
        return None
    if field.choices and field.is_text:
        return {_plain(choice): choice for choice in field.choices}.get(_plain(text), text.strip())
    return text if field.is_text else _read(text)


def _read(text: str) -> Any:
    plain = text.strip()
    if plain.lower() in BOOLEANS:
        return BOOLEANS[plain.lower()]
    try:
        return json.loads(plain)
    except ValueError:
        return text
