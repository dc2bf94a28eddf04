"""Answers that fit a JSON Schema: checks of the schema, instruction for the model, validation. Pure.

The structured output of opencode 1.18.33 makes one attempt through a synthetic tool and cannot repair an
answer. Therefore the schema is part of the system text, and the answer is validated here, by
``jsonschema``: Draft 2020-12 unless ``$schema`` names another; formats are not checked; remote references
are never fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any, cast

import regex
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend, validator_for  # pyright: ignore[reportUnknownVariableType]
from jsonschema_specifications import REGISTRY  # pyright: ignore[reportMissingTypeStubs]
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from opencode_tasks.domain.answer_shape import Shape, inside, label_descriptions, shape_of, titles_of
from opencode_tasks.domain.columns import RESERVED_COLUMNS
from opencode_tasks.domain.json_in_text import Found, values_in
from opencode_tasks.domain.json_values import children, list_in, mapping_in
from opencode_tasks.domain.label_in_text import label_in, without_fence
from opencode_tasks.domain.schema_keywords import is_endless, keyword_faults
from opencode_tasks.domain.text import composed

PROBLEM_LIMIT = 20
MESSAGE_LIMIT = 300
PATTERN_SECONDS = 1

# Beginnings of the items of an array, by their JSON type. A citation such as [1] or [x] begins no texts.
_QUOTES = "\"'`\u201c\u201d\u201e\u2018\u2019\u00ab"
_ITEM_STARTS = {
    "string": f"[{_QUOTES}]",
    "integer": r"[-+]?\d",
    "number": r"[-+]?\d",
    "boolean": r"(?:true|false)\b",
    "null": r"(?:null|none)\b",
    "object": r"\{",
    "array": r"\[",
}
# Values that are read as labels are: **true**, None.
_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None, "None": None}
_REPAIR = "Your last answer"
_NOT_SCHEMAS = {"enum", "const", "default", "examples"}
_NAMED_SCHEMAS = {
    "properties",
    "patternProperties",
    "dependentSchemas",
    "dependencies",
    "$defs",
    "definitions",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidAnswer:
    """An answer that fits its schema; ``value`` is a JSON value."""

    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidAnswer:
    """An answer that does not fit its schema. ``problems`` has one line for each reason, at least one."""

    problems: tuple[str, ...]


Parsed = ValidAnswer | InvalidAnswer


def check_schema(schema: Any) -> list[str]:
    """Return one line for each fault of a schema; [] if it has none.

    Faults are: the value is not a JSON Schema; it does not say the type of the answer; a reference has no
    target in the schema, or leads back to itself for the same value; a keyword has no effect and should have
    one; a field has the name of a column of OUTPUT.
    """
    if not isinstance(schema, Mapping):
        return [f"--schema: a JSON Schema is an object, not {_kind(schema)}"]
    plain = cast("Mapping[str, Any]", schema)
    try:
        _validator_class(plain).check_schema(plain, format_checker=_FORMATS)
    except SchemaError as error:
        return [f"--schema: not a JSON Schema at {_path(error)}: {_short(error.message)}"]
    except RecursionError:
        return ["--schema: nested too deeply"]
    faults = [f"--schema: {fault}" for fault in _reference_faults(plain)]
    if not faults:
        known = _validator_class(plain).VALIDATORS
        faults += [f"--schema: {fault}" for fault in keyword_faults(plain, known)]
    if not faults and not shape_of(plain).types:
        faults.append(
            "--schema: the top level does not say the type of the answer, for example "
            '{"type": "object", "properties": …}'
        )
    if not faults and is_endless(plain):
        faults.append("--schema: a part of it refers to itself for the same value, so that no check ends")
    faults.extend(
        f"--schema: the field {field!r} is named like a column of OUTPUT; rename it"
        for field in schema_columns(plain)
        if field in RESERVED_COLUMNS
    )
    return faults


def schema_columns(schema: Mapping[str, Any] | None) -> list[str]:
    """Return the fields of the objects that fit the schema, in order; [] if it describes other answers."""
    return [] if schema is None else list(shape_of(schema).fields)


def schema_instruction(schema: Mapping[str, Any]) -> str:
    """Return the instruction that is appended to the system text."""
    shape = shape_of(schema)
    if shape.is_label:
        null = ", or with the word null," if _takes_null(schema) else ""
        head = f"Answer with exactly one of these labels{null} and nothing else, no words around it:"
        descriptions = label_descriptions(schema)
        return "\n".join(
            [head, *shape.labels, *(["", "What they mean:"] if descriptions else []), *descriptions]
        )
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return (
        f"Answer with exactly one JSON {'object' if shape.is_object else 'value'} and nothing else: no words "
        f"around it, no code fence. It must fit this JSON Schema:\n{text}"
    )


def repair_prompt(problems: Sequence[str], schema: Mapping[str, Any]) -> str:
    """Return the prompt that lists the faults of the last answer and requests a corrected one."""
    listed = "\n".join(f"- {problem}" for problem in problems)
    shape = shape_of(schema)
    if shape.is_label:
        null = ", or with the word null" if _takes_null(schema) else ""
        return f"{_REPAIR} cannot be used:\n{listed}\nAnswer again with only one of these labels{null}."
    return (
        f"{_REPAIR} does not fit the JSON Schema:\n{listed}\n"
        f"Answer again with only the whole corrected JSON {'object' if shape.is_object else 'value'}."
    )


def is_repair(prompt: str) -> bool:
    """Return whether a prompt is one that ``repair_prompt`` returned."""
    return prompt.startswith(_REPAIR)


def parse_structured(text: str, schema: Mapping[str, Any]) -> Parsed:
    """Return the JSON value in an answer, or the reasons why it does not fit the schema.

    For a schema of objects, it is the last object in the text that fits; objects inside other objects and
    arrays do not count. If none fits, the reasons are those of the last one. A text that ends inside an
    object is a fault. So is an object with two meanings, and one that names a field of the schema and is
    broken or does not fit: no earlier object is used instead.

    For other schemas, it is the whole text if that is JSON, else the array or object in it that fits, else
    the text itself if a text fits, else the label, boolean or null that it names (``label_in``). Of several
    values that fit, it is the last one in a code fence, else the one that is alone on its lines; none if
    neither is there.
    """
    shape = shape_of(schema)
    plain = text if shape.is_object else without_fence(text)
    parsed = _last_that_fits(plain, schema, shape)
    if isinstance(parsed, ValidAnswer):
        return parsed
    if "string" in shape.types:
        found = Found(plain).checked()
        if not (faults := _faults_of(found, schema, shape)):
            return ValidAnswer(value=found.value)
        parsed = InvalidAnswer(problems=tuple(faults))
    labels: dict[str, Any] = {label: label for label in shape.labels}
    if labels and _takes_null(schema):
        labels.setdefault("null", None)
    listed = ", ".join(labels)
    folded = {label.casefold() for label in labels}
    words = {word: value for word, value in _WORDS.items() if word.casefold() not in folded}
    labels |= {word: value for word, value in words.items() if not validate(value, schema)}
    if (label := label_in(plain, tuple(labels), titles_of(schema))) is not None:
        return ValidAnswer(value=labels[label])
    if shape.is_label:
        return InvalidAnswer(problems=(f"the answer is not one of the labels {listed}",))
    return parsed


def _takes_null(schema: Mapping[str, Any]) -> bool:
    return not validate(None, schema)


def _last_that_fits(text: str, schema: Mapping[str, Any], shape: Shape) -> Parsed:
    problems: list[str] = []
    has_object = False
    fitting: list[Found] = []
    spellings = _spellings(schema)
    for one in values_in(text, _attempt(shape), of_objects=shape.is_object):
        found = one
        is_object = _is_object(found.value)
        faults = _faults_of(found, schema, shape)
        if faults and spellings:
            respelled = replace(found, value=_respelled(found.value, spellings))
            if not _faults_of(respelled, schema, shape):
                found, faults = respelled, []
        if not faults and (shape.is_object or found.place == "whole"):
            return ValidAnswer(value=found.value)
        if not faults or fitting:
            fitting += [] if faults else [found]
            continue
        # A model may repeat the schema, which has the names of the fields too.
        is_final = found.rules_out_earlier and found.value != schema
        if not problems or is_final or (is_object and not has_object):
            problems, has_object = faults, is_object
        if is_final:
            break
    if fitting:
        return _one_of(fitting)
    kind = "object" if shape.is_object else "value"
    return InvalidAnswer(problems=tuple(problems) or (f"the answer contains no JSON {kind}",))


def _spellings(schema: Any) -> dict[str, str]:
    """Labels and fields of a schema that are not ASCII, by the form of their accents that is compared."""
    found: dict[str, str] = {}
    pending = [schema]
    while pending:
        value = pending.pop()
        pending += children(value)
        node = mapping_in(value)
        listed = [*list_in(node.get("enum")), node.get("const"), *mapping_in(node.get("properties"))]
        found |= {composed(text): text for text in listed if isinstance(text, str) and not text.isascii()}
    return found


def _respelled(value: Any, spellings: Mapping[str, str]) -> Any:
    """A JSON value in which each text is written as in the schema, if only the form of accents differs."""
    match value:
        case str():
            return spellings.get(composed(value), value)
        case list():
            return [_respelled(item, spellings) for item in cast("list[Any]", value)]
        case dict():
            members = cast("dict[str, Any]", value)
            return {_respelled(key, spellings): _respelled(item, spellings) for key, item in members.items()}
        case _:
            return value


def _one_of(fitting: Sequence[Found]) -> Parsed:
    """The answer among arrays that all fit, the last of the text first; citations are arrays too.

    It is the last one in a code fence, else the one that is alone on its lines, else the only one.
    """
    for place in ("fence", "lines", "words"):
        values = [found.value for found in fitting if found.place == place]
        if values and (place == "fence" or len(set(map(json.dumps, values))) == 1):
            return ValidAnswer(value=values[0])
        if values:
            break
    return InvalidAnswer(problems=("the answer contains several different values; write only one",))


def _attempt(shape: Shape) -> re.Pattern[str]:
    """A pattern that is found in an object or array that is meant as the answer, also in a broken one.

    An object has a field of the schema, an array begins with an item of its type. Braces in formulas and
    citations do not match.
    """
    starts: list[str] = []
    if "object" in shape.types:
        names = "|".join(re.escape(name) for name in shape.fields if name)
        key = rf"[{_QUOTES}]?(?:{names})[{_QUOTES}]?\s*[:=]" if names else f"[{_QUOTES}]"
        starts.append(rf"[{{,]\s*{key}")
    if "array" in shape.types:
        items = shape.item_types or _ITEM_STARTS.keys()
        starts.append(rf"\[\s*(?:{'|'.join(sorted({_ITEM_STARTS[kind] for kind in items}))})")
    return re.compile("|".join(starts) or r"(?!)", re.IGNORECASE)


def _faults_of(found: Found, schema: Mapping[str, Any], shape: Shape) -> list[str]:
    if found.fault is not None:
        return [_short(found.fault)]
    value: Any = found.value
    faults = validate(value, schema)
    if not shape.is_object or _is_object(value) or (value is None and not faults):
        return faults
    return [f"the answer is {_kind(value)}, not a JSON object"]


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def validate(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """Return one line for each reason why the value does not fit, sorted by path; [] if it fits.

    After twenty lines, the others are counted.
    """
    validator = _validator_class(schema)(dict(schema), registry=REGISTRY)
    try:
        errors: list[ValidationError] = sorted(
            validator.iter_errors(value),  # pyright: ignore[reportUnknownMemberType]
            key=_path,
        )
    except Unresolvable as error:
        return [f"the schema's reference {error.ref!r} has no target"]
    except RecursionError:
        return ["the schema or the answer is nested too deeply"]
    lines = [f"{_path(error)}: {_short(error.message)}" for error in errors[:PROBLEM_LIMIT]]
    if len(errors) > PROBLEM_LIMIT:
        lines.append(f"and {len(errors) - PROBLEM_LIMIT} more")
    return lines


def _validator_class(schema: Mapping[str, Any]) -> Any:
    return _with_decimals(validator_for(dict(schema), default=Draft202012Validator))


@cache
def _with_decimals(draft: Any) -> Any:
    return cast("Any", extend)(draft, {"multipleOf": _multiple_of, "pattern": _pattern})


# The format of patterns alone: a pattern of the schema must be one that the search for it takes.
_FORMATS = FormatChecker(formats=())


@_FORMATS.checks("regex", raises=regex.error)
def _is_pattern(value: object) -> bool:
    return not isinstance(value, str) or bool(regex.compile(value))


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """Check ``pattern`` for a limited time: repetitions of parts that match the same text can need hours."""
    del schema
    if not validator.is_type(instance, "string"):
        return
    try:
        has_match = regex.search(pattern, instance, timeout=PATTERN_SECONDS) is not None  # pyright: ignore[reportUnknownMemberType]
    except TimeoutError:
        yield ValidationError(f"the search for the pattern {pattern!r} takes more than {PATTERN_SECONDS} s")
        return
    if not has_match:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _multiple_of(validator: Any, divisor: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """Check ``multipleOf`` in decimal numbers, as they are written: 4.02 is a multiple of 0.01."""
    del schema
    if validator.is_type(instance, "number") and Fraction(str(instance)) % Fraction(str(divisor)):
        yield ValidationError(f"{instance!r} is not a multiple of {divisor}")


def _reference_faults(schema: Mapping[str, Any]) -> Iterator[str]:
    root: Resource[Any] = Resource.from_contents(dict(schema), default_specification=DRAFT202012)
    pending: list[tuple[Any, Any, bool]] = [(schema, REGISTRY.resolver_with_root(root), False)]
    while pending:
        value, near, has_names = pending.pop()
        if isinstance(value, list):
            pending.extend((item, near, False) for item in cast("list[Any]", value))
        if not isinstance(value, Mapping):
            continue
        node, near = (schema, near) if value is schema else inside(value, near)
        for keyword in ("$ref", "$dynamicRef"):
            reference = node.get(keyword)
            if isinstance(reference, str) and (fault := _target_fault(reference, near)) is not None:
                yield f"the reference {reference!r} {fault}"
        # A field or a definition can have the name of a keyword.
        pending.extend(
            (child, near, not has_names and key in _NAMED_SCHEMAS)
            for key, child in node.items()
            if has_names or key not in _NOT_SCHEMAS
        )


def _target_fault(reference: str, near: Any) -> str | None:
    try:
        target = near.lookup(reference).contents
    except (Unresolvable, ValueError):
        return "has no target (remote references are never fetched)"
    return None if isinstance(target, (Mapping, bool)) else f"is no schema, but {_kind(target)}"


def _path(error: ValidationError | SchemaError) -> str:
    return error.json_path


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "an array"
        case _:
            return f"a {type(value).__name__}"


def _short(message: str) -> str:
    return message if len(message) <= MESSAGE_LIMIT else f"{message[:MESSAGE_LIMIT]}…"
