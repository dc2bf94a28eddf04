"""Answers as JSON objects: checks of the schema, instruction for the model, validation of answers. Pure.

The structured output of opencode 1.18.33 makes one attempt through a synthetic tool and cannot repair an
answer. Therefore the schema is part of the system text, and the answer is validated here, by
``jsonschema``: Draft 2020-12 unless ``$schema`` names another; formats are not checked; remote references
are never fetched.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY  # pyright: ignore[reportMissingTypeStubs]
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from opencode_tasks.domain.columns import RESERVED_COLUMNS
from opencode_tasks.domain.json_values import is_deeper

PROBLEM_LIMIT = 20
MESSAGE_LIMIT = 300
# The writers of OUTPUT recurse into an answer, and Python limits the depth of that.
MAX_DEPTH = 100
# Digits of the largest number that a float can hold; validation divides by floats.
MAX_DIGITS = 308
SHOWN_DIGITS = 40

_NOT_SCHEMAS = {"enum", "const", "default", "examples"}
_FENCE = re.compile(r"```(?:json)?\s*(?=\{)", re.IGNORECASE)
_OBJECT_START = re.compile(r"\{\s*[\"}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidAnswer:
    """An answer that fits its schema."""

    value: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidAnswer:
    """An answer that does not fit its schema. ``problems`` has one line for each reason, at least one."""

    problems: tuple[str, ...]


Parsed = ValidAnswer | InvalidAnswer


def check_schema(schema: Any) -> list[str]:
    """Return one line for each fault of a schema; [] if it has none.

    Faults are: the value is not a JSON Schema; it does not describe an object; a reference has no target in
    the schema; a field has the name of a column of OUTPUT.
    """
    if not isinstance(schema, Mapping):
        return [f"--schema: a JSON Schema is an object, not {_kind(schema)}"]
    plain = cast("Mapping[str, Any]", schema)
    try:
        _validator_class(plain).check_schema(plain)
    except SchemaError as error:
        return [f"--schema: not a JSON Schema at {_path(error)}: {_short(error.message)}"]
    except RecursionError:
        return ["--schema: nested too deeply"]
    faults = [f"--schema: {fault}" for fault in _reference_faults(plain)]
    if plain.get("type") != "object":
        faults.append('--schema: the top level must be an object: {"type": "object", "properties": …}')
    faults.extend(
        f"--schema: the field {field!r} is named like a column of OUTPUT; rename it"
        for field in schema_columns(plain)
        if field in RESERVED_COLUMNS
    )
    return faults


def schema_columns(schema: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the schema's top-level properties in order; [] if there are none."""
    properties = (schema or {}).get("properties")
    return list(cast("Mapping[str, Any]", properties)) if isinstance(properties, Mapping) else []


def schema_instruction(schema: Mapping[str, Any]) -> str:
    """Return the instruction that is appended to the system text."""
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return (
        "Answer with exactly one JSON object and nothing else: no words around it, no code fence. "
        f"It must fit this JSON Schema:\n{text}"
    )


def repair_prompt(problems: Sequence[str]) -> str:
    """Return the prompt that lists the faults of the last answer and requests a corrected one."""
    listed = "\n".join(f"- {problem}" for problem in problems)
    return (
        f"Your last answer does not fit the JSON Schema:\n{listed}\n"
        "Answer again with only the whole corrected JSON object."
    )


def parse_structured(text: str, schema: Mapping[str, Any]) -> Parsed:
    """Return the JSON object in an answer, or the reasons why it does not fit the schema.

    The object is the whole text, else the one in the first code fence that has one, else the first in the
    text. An object that is cut off is a fault; its inner objects are not used instead.
    """
    try:
        value = _object_in(text)
    except (ValueError, RecursionError) as error:
        return InvalidAnswer(problems=(_short(str(error)),))
    problems = validate(value, schema)
    return InvalidAnswer(problems=tuple(problems)) if problems else ValidAnswer(value=value)


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


def _object_in(text: str) -> dict[str, Any]:
    stripped = text.strip()
    try:
        return _as_object(_loads(stripped))
    except json.JSONDecodeError:
        pass
    for start in _starts(stripped):
        try:
            value, _ = _DECODER.raw_decode(stripped, start)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"the JSON object is broken at character {error.pos + 1}: {error.msg}"
            ) from error
        return _as_object(value)
    raise ValueError("the answer contains no JSON object")


def _starts(text: str) -> Iterator[int]:
    """The most likely start of an object: the start of the text, else a code fence, else the first brace."""
    fence = _FENCE.search(text)
    found = _OBJECT_START.search(text)
    if _OBJECT_START.match(text):
        yield 0
    elif fence:
        yield fence.end()
    elif found:
        yield found.start()


def _as_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        # The type of the model's answer is wrong, not that of an argument.
        raise ValueError(f"the answer is {_kind(value)}, not a JSON object")  # noqa: TRY004
    if is_deeper(value, MAX_DEPTH):
        raise ValueError(f"the answer is nested more than {MAX_DEPTH} levels deep")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("the answer contains an invalid character (a lone surrogate)") from error
    return cast("dict[str, Any]", value)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:SHOWN_DIGITS]} is too large")
    return number


def _short_integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"the number {text[:SHOWN_DIGITS]}… has more than {MAX_DIGITS} digits")
    return int(text)


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, parse_int=_short_integer)


def _loads(text: str) -> Any:
    return _DECODER.decode(text)


def _validator_class(schema: Mapping[str, Any]) -> Any:
    return validator_for(dict(schema), default=Draft202012Validator)


def _reference_faults(schema: Mapping[str, Any]) -> Iterator[str]:
    root: Resource[Any] = Resource.from_contents(dict(schema), default_specification=DRAFT202012)
    resolver = REGISTRY.resolver_with_root(root)
    pending: list[tuple[Any, Any]] = [(schema, resolver)]
    while pending:
        value, near = pending.pop()
        if isinstance(value, list):
            pending.extend((item, near) for item in cast("list[Any]", value))
        if not isinstance(value, Mapping):
            continue
        node = cast("Mapping[str, Any]", value)
        if node is not schema and isinstance(node.get("$id"), str):
            near = near.in_subresource(Resource.from_contents(dict(node), default_specification=DRAFT202012))
        reference = node.get("$ref")
        if isinstance(reference, str):
            try:
                near.lookup(reference)
            except Unresolvable:
                yield f"the reference {reference!r} has no target (remote references are never fetched)"
        pending.extend((child, near) for key, child in node.items() if key not in _NOT_SCHEMAS)


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
