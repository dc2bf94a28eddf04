"""RunView: what the pages must know about a run to show its rows. Values alone, no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from opencode_tasks.domain.answer_shape import Types, shape_of
from opencode_tasks.domain.columns import RESPONSE
from opencode_tasks.domain.json_values import list_in, mapping_in, text_in

FieldKind = Literal["choice", "boolean", "number", "text", "json"]
NUMBER: Types = frozenset({"number", "integer"})
BOOLEAN_CHOICES = ("true", "false")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerField:
    """A field of the answers; the only one of a run whose answers are no objects is ``response``.

    ``choices`` are the texts among which a choice or a boolean is chosen.
    """

    name: str
    kind: FieldKind
    choices: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name for people."""
        return field_title(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as the pages show it. ``system`` is its system text, None if that is the default.

    ``model_ref`` has the names of all models if there are several.
    ``has_agreement`` is whether its rows have votes, and so an agreement.
    """

    run_id: str
    model_ref: str | None
    system: str | None
    spent_pico: int
    fields: tuple[AnswerField, ...]
    is_object: bool
    label_names: tuple[str, ...]
    has_gold: bool
    has_agreement: bool
    error_types: Sequence[str]


def run_view(run: Mapping[str, Any], *, has_gold: bool, error_types: Sequence[str]) -> RunView:
    """The view of a run by its columns in the ledger."""
    parameters = mapping_in(run["parameters"])
    schema = mapping_in(parameters.get("schema")) or None
    fields = answer_fields(schema)
    return RunView(
        run_id=run["run_id"],
        model_ref=run["model_ref"] or ", ".join(map(str, list_in(parameters.get("models")))) or None,
        system=text_in(parameters.get("system")),
        spent_pico=run["spent_pico"],
        fields=fields,
        is_object=fields[0].name != RESPONSE.name,
        label_names=tuple(map(str, list_in(parameters.get("labels")))),
        has_gold=has_gold,
        has_agreement=(run["votes"] or 0) > 1,
        error_types=error_types,
    )


def answer_fields(schema: Mapping[str, Any] | None) -> tuple[AnswerField, ...]:
    """The fields of the answers that fit a schema, at least one."""
    if schema is None:
        return (AnswerField(name=RESPONSE.name, kind="text"),)
    shape = shape_of(schema)
    if shape.is_object and shape.fields:
        return tuple(
            _field(name, types, shape.field_labels.get(name)) for name, types in shape.fields.items()
        )
    return (_field(RESPONSE.name, shape.types, shape.labels if shape.is_label else None),)


def field_title(name: str) -> str:
    """The name of a field for people."""
    return "answer" if name == RESPONSE.name else name


def _field(name: str, types: Types | None, labels: Sequence[str] | None) -> AnswerField:
    plain = None if types is None else types - {"null"}
    if labels:
        return AnswerField(name=name, kind="choice", choices=tuple(dict.fromkeys(labels)))
    if plain == frozenset({"boolean"}):
        return AnswerField(name=name, kind="boolean", choices=BOOLEAN_CHOICES)
    if plain and plain <= NUMBER:
        return AnswerField(name=name, kind="number")
    return AnswerField(name=name, kind="text" if plain == frozenset({"string"}) else "json")
