"""Keywords of a JSON Schema that would judge answers in another way than their writer means. Pure.

A validator ignores keywords that it does not know: those of OpenAPI and of other drafts, and misspelt ones.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from jsonschema import (
    Draft4Validator,
    Draft6Validator,
    Draft7Validator,
    Draft201909Validator,
    Draft202012Validator,
)
from jsonschema_specifications import REGISTRY  # pyright: ignore[reportMissingTypeStubs]
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from opencode_tasks.domain.answer_shape import Node, inside, types_of
from opencode_tasks.domain.json_values import list_in, mapping_in

_DRAFTS: tuple[Any, ...] = (
    Draft4Validator,
    Draft6Validator,
    Draft7Validator,
    Draft201909Validator,
    Draft202012Validator,
)
_KEYWORDS = frozenset[str]().union(*(draft.VALIDATORS for draft in _DRAFTS)) - {"format"}
# Words of annotations that are similar to keywords: a note, an example.
_SPELLINGS = {name.casefold(): name for name in _KEYWORDS if len(name) > len("not")}
_SIMILARITY = 0.85

# Keywords that hold schemas of the same value, and of parts of it.
_SAME = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")
_SAME_BY_NAME = ("dependentSchemas",)
_PARTS = (
    "items",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
)
_PARTS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependencies")


def keyword_faults(schema: Mapping[str, Any], known: Collection[str]) -> Iterator[str]:
    """Yield a line for each keyword that has no effect and should have one.

    ``known`` are the keywords of the draft.
    """
    for path, node in _nodes(schema):
        for fault in _faults(node, known):
            yield f"{path}: {fault}"


def is_endless(schema: Mapping[str, Any]) -> bool:
    """Return whether a part of a schema applies itself to the same value, so that no check of it ends."""
    done = set[int]()
    return any(_is_in_circle(node, frozenset(), done) for _, node in _nodes(schema))


def _is_in_circle(node: Node, path: frozenset[int], done: set[int]) -> bool:
    at = id(node[0])
    if at in path or at in done:
        return at in path
    found = any(_is_in_circle(part, path | {at}, done) for _, part in _inside(node, _SAME, _SAME_BY_NAME))
    done.add(at)
    return found


def _nodes(schema: Mapping[str, Any]) -> Iterator[tuple[str, Node]]:
    """The schemas inside a schema and its references to itself, each with its path."""
    root: Resource[Any] = Resource.from_contents(dict(schema), default_specification=DRAFT202012)
    pending: list[tuple[str, Node]] = [("$", (schema, REGISTRY.resolver_with_root(root)))]
    seen = set[int]()
    while pending:
        path, node = pending.pop()
        if id(node[0]) in seen:
            continue
        seen.add(id(node[0]))
        yield path, node
        names = (*_SAME_BY_NAME, *_PARTS_BY_NAME)
        pending += [(f"{path}.{key}", part) for key, part in _inside(node, (*_SAME, *_PARTS), names)]


def _inside(node: Node, keywords: Collection[str], by_name: Collection[str]) -> Iterator[tuple[str, Node]]:
    schema, near = node
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        try:
            found = near.lookup(reference)
        except (Unresolvable, ValueError):
            return
        yield "$ref", (mapping_in(found.contents), found.resolver)
    for keyword in keywords:
        value = schema.get(keyword)
        for part in list_in(value) or [value]:
            if isinstance(part, Mapping):
                yield keyword, inside(part, near)
    for keyword in by_name:
        for name, part in mapping_in(schema.get(keyword)).items():
            if isinstance(part, Mapping):
                yield f"{keyword}.{name}", inside(part, near)


def _pattern_fault(name: str) -> str | None:
    """Why ``jsonschema`` cannot search for the name of a pattern; it searches for these with ``re``."""
    try:
        re.compile(name)
    except re.error as error:
        return str(error)
    return None


def _faults(node: Node, known: Collection[str]) -> Iterator[str]:
    schema, _ = node
    types = types_of(node)
    if schema.get("nullable") is True and types is not None and "null" not in types:
        own = schema.get("type")
        form = f'"type": ["{own}", "null"]' if isinstance(own, str) else '"anyOf": [{…}, {"type": "null"}]'
        yield f"nullable is no keyword of JSON Schema; write {form}, and null in an enum"
    for name in mapping_in(schema.get("patternProperties")):
        if (fault := _pattern_fault(name)) is not None:
            yield f"the pattern {name!r} of patternProperties cannot be used: {fault}"
    # In draft 4, exclusiveMinimum is a part of minimum.
    for key in schema:
        if key in _KEYWORDS and key not in known and not key.startswith("exclusive"):
            yield f"{key!r} has no effect in this draft; replace it, or name the draft that has it in $schema"
        if key not in _KEYWORDS and key[:1] != "$":
            similar = get_close_matches(key.casefold(), _SPELLINGS, n=1, cutoff=_SIMILARITY)
            name = _SPELLINGS[similar[0]] if similar else key
            if name not in schema:
                yield f"{key!r} has no effect; write {name!r}"
