"""Shape of the answers that a JSON Schema describes: their types, their fields, their labels. Pure.

References within the schema and ``allOf``, ``anyOf`` and ``oneOf`` are followed at the top level and in each
field, since exporters of other libraries put the definition of the answer there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from jsonschema_specifications import REGISTRY  # pyright: ignore[reportMissingTypeStubs]
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from opencode_tasks.domain.json_values import list_in, mapping_in, text_in

Types = frozenset[str]
Node = tuple[Mapping[str, Any], Any]
"""A schema, and the resolver of its references."""

# Words of a title, also of one such as TicketKind.
_WORDS = re.compile(r"[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|[A-Z][^\W\d_A-Z]*")
_ALTERNATIVES = ("anyOf", "oneOf")
# Keywords that say the type if the schema has no "type".
_IMPLIED = {"properties": "object", "required": "object", "items": "array", "prefixItems": "array"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The types and labels of the answers that fit a schema.

    ``types`` are the JSON types of an answer, "null" aside; empty if the schema does not say them. A number
    has the types "number" and "integer". ``fields`` are the fields of an object with their types, None for
    unknown ones; empty for other answers. ``labels`` are the texts among which an answer is chosen,
    ``field_labels`` those of each field that is always one of certain texts, or null. ``item_types`` are the
    types of the items of an array; empty if the schema does not say them. ``allows_null``: an answer may be
    null.
    """

    types: Types
    fields: Mapping[str, Types | None]
    labels: tuple[str, ...]
    field_labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    item_types: Types = frozenset()
    allows_null: bool = False

    @property
    def is_object(self) -> bool:
        """Whether every answer is an object, or null."""
        return self.types == frozenset({"object"})

    @property
    def is_label(self) -> bool:
        """Whether every answer is one of the labels, or null."""
        return bool(self.labels) and self.types == frozenset({"string"})


def shape_of(schema: Mapping[str, Any]) -> Shape:
    """Return the shape of the answers that fit a schema."""
    root: Resource[Any] = Resource.from_contents(dict(schema), default_specification=DRAFT202012)
    node = (schema, REGISTRY.resolver_with_root(root))
    types = _types(node, frozenset()) or frozenset()
    choices = _choices(node, frozenset()) or []
    shape = Shape(
        types=types - {"null"},
        fields={},
        labels=tuple(text for text in choices if isinstance(text, str)),
        item_types=_union([_types(part, frozenset()) for part in _items(node, frozenset())]) or frozenset(),
        allows_null="null" in types,
    )
    if not shape.is_object:
        return shape
    fields: dict[str, Types | None] = {}
    labels: dict[str, tuple[str, ...]] = {}
    unlisted = set[str]()
    for name, part in _fields(node, frozenset()):
        found = _types(part, frozenset())
        known = fields.get(name, found)
        fields[name] = None if found is None or known is None else found | known
        choices = _choices(part, frozenset()) or [0]
        if all(choice is None or isinstance(choice, str) for choice in choices):
            labels[name] = (*labels.get(name, ()), *(text for text in choices if text is not None))
        else:
            unlisted.add(name)
    of_fields = {name: texts for name, texts in labels.items() if name not in unlisted}
    return replace(shape, fields=fields, labels=(), field_labels=of_fields)


def label_descriptions(schema: Mapping[str, Any]) -> list[str]:
    """Return the descriptions in a schema of labels, after the labels that they are about, if not all."""
    root: Resource[Any] = Resource.from_contents(dict(schema), default_specification=DRAFT202012)
    node = (schema, REGISTRY.resolver_with_root(root))
    return list(_descriptions(node, frozenset(), _choices(node, frozenset())))


def _descriptions(node: Node, seen: frozenset[int], labels: list[Any] | None) -> Iterator[str]:
    description = text_in(node[0].get("description"))
    if description is not None:
        own = _choices_or_null(node, seen)
        about = [] if own is None or own == labels else ["null" if one is None else str(one) for one in own]
        yield f"{', '.join(about)}: {description}" if about else description
    for part, inner in _parts(node, seen, "$ref", "allOf", *_ALTERNATIVES):
        yield from _descriptions(part, inner, labels)


def titles_of(schema: Mapping[str, Any]) -> set[str]:
    """Return the titles in a schema of labels, in words, and the last word of each."""
    root: Resource[Any] = Resource.from_contents(dict(schema), default_specification=DRAFT202012)
    titles = (
        _WORDS.findall(title) for title in _titles((schema, REGISTRY.resolver_with_root(root)), frozenset())
    )
    return {name for words in titles if words for name in (" ".join(words), words[-1])}


def _titles(node: Node, seen: frozenset[int]) -> Iterator[str]:
    title = text_in(node[0].get("title"))
    if title is not None:
        yield title
    for part, inner in _parts(node, seen, "$ref", "allOf", *_ALTERNATIVES):
        yield from _titles(part, inner)


def longest_answer_bytes(schema: Mapping[str, Any]) -> int | None:
    """Return the bytes of the longest answer as JSON; None if the schema does not limit the length.

    Known are one of listed values, a boolean, null, and an object whose fields are all of these.
    """
    root: Resource[Any] = Resource.from_contents(dict(schema), default_specification=DRAFT202012)
    node = (schema, REGISTRY.resolver_with_root(root))
    types = _types(node, frozenset())
    if types is None or types - {"null"} != frozenset({"object"}):
        return _longest_value(node)
    longest: dict[str, int] = {}
    for name, part in _fields(node, frozenset()):
        value = _longest_value(part)
        if value is None:
            return None
        # The quotes of the name, a colon, a comma and two spaces.
        longest[name] = max(longest.get(name, 0), _json_bytes(name) + value + 4)
    return sum(longest.values()) + 2 if longest else None


def _longest_value(node: Node) -> int | None:
    types = _types(node, frozenset())
    choices = _choices(node, frozenset())
    if choices is None and types is not None and types <= {"boolean", "null"}:
        choices = [False, None]
    return max(map(_json_bytes, choices)) if choices else None


def _json_bytes(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def inside(value: Any, near: Any) -> Node:
    """Return a schema inside another one with the resolver of its references; not a schema is empty."""
    node = mapping_in(value)
    if isinstance(node.get("$id"), str):
        near = near.in_subresource(Resource.from_contents(dict(node), default_specification=DRAFT202012))
    return node, near


def _parts(node: Node, seen: frozenset[int], *keywords: str) -> Iterator[tuple[Node, frozenset[int]]]:
    """The schemas that a schema combines by these keywords; none of a schema that contains itself."""
    schema, near = node
    if id(schema) in seen:
        return
    seen |= {id(schema)}
    reference = schema.get("$ref")
    if "$ref" in keywords and isinstance(reference, str):
        try:
            found = near.lookup(reference)
        except Unresolvable:
            return
        yield (mapping_in(found.contents), found.resolver), seen
    for keyword in keywords:
        for part in list_in(schema.get(keyword)):
            yield inside(part, near), seen


def types_of(node: Node) -> Types | None:
    """Return the JSON types that fit a schema; None if it does not say them."""
    return _types(node, frozenset())


def _types(node: Node, seen: frozenset[int]) -> Types | None:
    """The JSON types that fit a schema; None if it does not say them."""
    schema, _ = node
    stated = [
        _own_types(schema),
        *(_types(part, inner) for part, inner in _parts(node, seen, "$ref", "allOf")),
    ]
    for keyword in _ALTERNATIVES:
        alternatives = [_types(part, inner) for part, inner in _parts(node, seen, keyword)]
        stated.append(_union(alternatives))
    known = [types for types in stated if types is not None]
    if known:
        return known[0].intersection(*known[1:])
    return next((frozenset({kind}) for keyword, kind in _IMPLIED.items() if keyword in schema), None)


def _union(found: list[Types | None]) -> Types | None:
    """The types of alternatives; None if one of them does not say its types, or if there are none."""
    known = [types for types in found if types is not None]
    return frozenset[str]().union(*known) if known and len(known) == len(found) else None


def _own_types(schema: Mapping[str, Any]) -> Types | None:
    declared = schema.get("type")
    if declared is not None:
        kinds = list(map(str, cast("list[Any]", declared) if isinstance(declared, list) else [declared]))
        return frozenset([*kinds, "integer"] if "number" in kinds else kinds)
    values = _own_choices(schema)
    return None if values is None else frozenset(map(type_of, values))


def _own_choices(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return list_in(schema["enum"]) if "enum" in schema else None


def _choices(node: Node, seen: frozenset[int]) -> list[Any] | None:
    """The values among which an answer is chosen; None if they are not listed."""
    if (own := _own_choices(node[0])) is not None:
        return own
    for part, inner in _parts(node, seen, "$ref", "allOf"):
        if (found := _choices(part, inner)) is not None:
            return found
    listed = [_choices_or_null(part, inner) for part, inner in _parts(node, seen, *_ALTERNATIVES)]
    if not listed or None in listed:
        return None
    return [value for values in listed if values is not None for value in values]


def _choices_or_null(node: Node, seen: frozenset[int]) -> list[Any] | None:
    return [None] if node[0].get("type") == "null" else _choices(node, seen)


def _fields(node: Node, seen: frozenset[int]) -> Iterator[tuple[str, Node]]:
    """The fields of an object in the order of the schema, one of several alternatives more than once."""
    schema, near = node
    for part, inner in _parts(node, seen, "$ref", "allOf"):
        yield from _fields(part, inner)
    for name, part in mapping_in(schema.get("properties")).items():
        yield name, inside(part, near)
    for part, inner in _parts(node, seen, *_ALTERNATIVES):
        yield from _fields(part, inner)


def _items(node: Node, seen: frozenset[int]) -> Iterator[Node]:
    """The schemas of the items of an array."""
    schema, near = node
    for part, inner in _parts(node, seen, "$ref", "allOf", *_ALTERNATIVES):
        yield from _items(part, inner)
    for part in (schema.get("items"), *list_in(schema.get("prefixItems"))):
        if isinstance(part, Mapping):
            yield inside(part, near)


_NAMES: Mapping[type[Any], str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
}


def type_of(value: Any) -> str:
    """The JSON type of a value; a whole number is an "integer"."""
    return _NAMES.get(cast("type[Any]", type(value)), "object")
