"""Answers as texts by field, and the texts that a person entered as an answer: for pages and for files.

A value of an answer is a text here: a text as it is, other values as their JSON, and null as no text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from opencode_tasks.domain.answer_shape import Types, shape_of, type_of
from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.text import composed
from opencode_tasks.frames.cells import json_text
from opencode_tasks.frames.columns import RESPONSE
from opencode_tasks.frames.csv_text import protected_text
from opencode_tasks.ledger.column_types import storable

FieldKind = Literal["choice", "boolean", "number", "text", "json"]
BOOLEANS: Mapping[str, bool] = {"true": True, "false": False}
TEXT: Types = frozenset({"string"})
NULL: Types = frozenset({"null"})
NUMBER: Types = frozenset({"number", "integer"})
MAX_SHOWN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerField:
    """A field of the answers; the only one of answers without fields is ``response``.

    ``types`` are its JSON types, "null" included; None if the schema does not say them. A person chooses
    among the texts ``choices``; empty for free texts.
    """

    name: str
    types: Types | None
    choices: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name for people."""
        return field_title(self.name)

    @property
    def is_text(self) -> bool:
        """Whether its values are texts, or may be."""
        return not self.types or "string" in self.types

    @property
    def allows_null(self) -> bool:
        """Whether the schema says that a value may be null."""
        return "null" in (self.types or ())

    @property
    def kind(self) -> FieldKind:
        """How a person enters a value."""
        plain = (self.types or frozenset()) - NULL
        if plain == frozenset({"boolean"}):
            return "boolean"
        if self.choices:
            return "choice"
        if plain and plain <= NUMBER:
            return "number"
        return "text" if self.is_text else "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """The fields of the answers of a run, at least one. ``is_object``: they are the fields of an object."""

    fields: tuple[AnswerField, ...]
    is_object: bool

    def texts(self, answer: Any) -> dict[str, str | None]:
        """The texts of an answer by field."""
        return {field.name: value_text(self.value(answer, field)) for field in self.fields}

    def value(self, answer: Any, field: AnswerField) -> Any:
        """The value of a field in an answer; None for null, and if the answer lacks the field."""
        return mapping_in(answer).get(field.name) if self.is_object else answer

    def answer(
        self, texts: Mapping[str, str | None], model: Any, *, keeps_spaces: bool = False
    ) -> tuple[Any, tuple[str, ...]]:
        """The answer that a person gave, and a line for each text that cannot be read.

        It is made from the answer of the model (None without one): a value whose text was not changed stays
        as it is, and so do fields that the schema does not name. ``keeps_spaces`` says that spaces around a
        text are a change. A null that the schema does not allow is left out.
        """
        found = dict(mapping_in(model))
        is_changed = isinstance(model, Mapping)
        faults: list[str] = []
        for field in self.fields:
            text, shown = texts.get(field.name), self.value(model, field)
            if not _chooses_null(text, field) and not _is_changed(
                text, shown, field, keeps_spaces=keeps_spaces
            ):
                continue
            try:
                value = _value(text, shown, field)
            except ValueError:
                faults.append(f"{field.title}: {(text or '')[:MAX_SHOWN]!r} is not {_expected(field)}")
                continue
            if not self.is_object:
                return value, ()
            is_changed = True
            if value is None and not field.allows_null:
                found.pop(field.name, None)
            else:
                found[field.name] = value
        return (found if self.is_object and is_changed else model), tuple(faults)


def answer_form(schema: Mapping[str, Any] | None) -> AnswerForm:
    """The form of the answers that fit a schema; None for texts."""
    if schema is None:
        return AnswerForm(fields=(AnswerField(name=RESPONSE.name, types=TEXT),), is_object=False)
    shape = shape_of(schema)
    if shape.is_object and shape.fields:
        fields = (
            _field(name, types, shape.field_labels.get(name, ())) for name, types in shape.fields.items()
        )
        return AnswerForm(fields=tuple(fields), is_object=True)
    types = shape.types | NULL if shape.allows_null else shape.types
    labels = shape.labels if shape.is_label else ()
    return AnswerForm(fields=(_field(RESPONSE.name, types, labels),), is_object=False)


def field_title(name: str) -> str:
    """The name of a field for people."""
    return "answer" if name == RESPONSE.name else name


def answer_text(value: Any) -> str:
    """The text of a whole answer: a text as it is, another value as its JSON."""
    return value if isinstance(value, str) else json_text(value)


def value_text(value: Any) -> str | None:
    """The text of a value of an answer; None for null."""
    return None if value is None else storable(answer_text(value))


def is_empty(texts: Mapping[str, str | None]) -> bool:
    """Whether there is no text at all."""
    return not any(map(_plain, texts.values()))


def _field(name: str, types: Types | None, labels: Sequence[str]) -> AnswerField:
    field = AnswerField(name=name, types=types, choices=tuple(dict.fromkeys(labels)))
    return AnswerField(name=name, types=types, choices=tuple(BOOLEANS)) if field.kind == "boolean" else field


def _chooses_null(text: str | None, field: AnswerField) -> bool:
    """Whether a person chose null among the choices of a field. No text at all is no choice."""
    return text == "" and bool(field.choices) and field.allows_null


def _is_changed(text: str | None, value: Any, field: AnswerField, *, keeps_spaces: bool) -> bool:
    given, shown = (_lines(one) if keeps_spaces else _plain(one) for one in (text, value_text(value)))
    # A file for spreadsheets was saved in another format.
    if given in (shown, protected_text(shown)):
        return False
    if not _is_json(field, value):
        return True
    try:
        return not _is_same(_read(given, field), value)
    except ValueError:
        return True


def _lines(text: str | None) -> str:
    """A text without the kinds of line ends, which files and browsers change."""
    return storable(text or "").replace("\r\n", "\n").replace("\r", "\n")


def _plain(text: str | None) -> str:
    """A text without what files and editors change: kinds of line ends, spaces around it."""
    return _lines(text).strip()


def _value(text: str | None, shown: Any, field: AnswerField) -> Any:
    """The value that a text means, in place of ``shown``. Raises ValueError if it means none."""
    if text is None or not text.strip():
        return "" if field.types == TEXT and not field.choices else None
    if field.kind == "choice":
        known = {composed(_plain(choice)): choice for choice in field.choices}
        return known.get(composed(_plain(text)), text.strip())
    plain = text.replace("\r\n", "\n")
    if not _is_json(field, shown):
        return plain
    try:
        return _read(text, field)
    except ValueError:
        if field.is_text:
            return plain
        raise


def _is_json(field: AnswerField, value: Any) -> bool:
    """Whether the text that replaces a value is read as JSON first."""
    if field.kind == "choice" or (field.types and field.types <= TEXT | NULL):
        return False
    return not field.is_text or not isinstance(value, str)


def _read(text: str, field: AnswerField) -> Any:
    """The value of a JSON text that has a type of the field; booleans may be in upper case.

    Raises ValueError for others, also for numbers that JSON cannot write.
    """
    plain = text.strip()
    if plain.lower() in BOOLEANS and "boolean" in (field.types or ("boolean",)):
        return BOOLEANS[plain.lower()]
    try:
        value = json.loads(plain)
        json_text(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if field.is_text and field.types and type_of(value) not in field.types:
        raise ValueError("a value of another type")
    return value


def _is_same(first: Any, second: Any) -> bool:
    """Whether two JSON values are equal; Python's True equals 1."""
    return first == second and isinstance(first, bool) == isinstance(second, bool)


def _expected(field: AnswerField) -> str:
    match field.kind:
        case "number":
            return "a number"
        case "boolean":
            return "true or false"
        case "choice" | "text" | "json":
            return 'a JSON value such as ["a"] or {"a": 1}'
