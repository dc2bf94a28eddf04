"""AnswerFormat: what an answer must be, how it is read, and how often the model may correct it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from inspect import isroutine
from traceback import extract_tb
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from opencode_tasks.domain.answer_schema import InvalidAnswer, Parsed, parse_structured
from opencode_tasks.errors import InputError

MAX_REPAIRS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormat:
    """Format of the answers of a run.

    ``output_type`` is a type whose validators check an answer that fits the schema; None for none.
    ``max_repairs`` is the maximum number of requests for a corrected answer.
    """

    schema: Mapping[str, Any]
    output_type: Any = None
    max_repairs: int = MAX_REPAIRS

    def parse(self, text: str) -> Parsed:
        """The JSON value in an answer, or the reasons why it has another format."""
        parsed = parse_structured(text, self.schema)
        if isinstance(parsed, InvalidAnswer):
            return parsed
        try:
            self.read(parsed.value)
        except ValidationError as error:
            return InvalidAnswer(problems=tuple(_lines(error)))
        except Exception as error:  # noqa: BLE001  a validator is the user's code, and the answer is paid for
            return InvalidAnswer(problems=(_surprise(error, self.output_type),))
        return parsed

    def read(self, value: Any) -> Any:
        """A JSON value as ``output_type``. Raises pydantic's ValidationError if a validator refuses it."""
        if self.output_type is None:
            return value
        return _adapter(self.output_type).validate_json(json.dumps(value))


def answer_format(
    schema: Mapping[str, Any] | None, output_type: Any, max_repairs: int
) -> AnswerFormat | None:
    """The format of a run; None if its answers are text."""
    if schema is None:
        return None
    return AnswerFormat(schema=schema, output_type=output_type, max_repairs=max_repairs)


def schema_of(output_type: Any) -> dict[str, Any]:
    """JSON Schema of a type that pydantic knows: a model, a dataclass, a TypedDict, ``list[str]``, an enum.

    Raises InputError if the value is no type, or if pydantic has no schema for it.
    """
    if isinstance(output_type, (Mapping, str)):
        raise InputError(
            ("output_type: give a type; a JSON Schema or the name of its file is given by schema=",)
        )
    if isroutine(output_type) or isinstance(output_type, partial):
        fault = f"output_type: {_name(output_type)} is a function; give a type, for example a pydantic model"
        raise InputError((fault,))
    try:
        return TypeAdapter(output_type).json_schema()
    except PydanticUserError as error:
        reason = str(error).splitlines()[0]
        raise InputError((f"output_type: {_name(output_type)} has no JSON Schema: {reason}",)) from None


@lru_cache(maxsize=16)
def _adapter(output_type: Any) -> TypeAdapter[Any]:
    return TypeAdapter(output_type)


def _lines(error: ValidationError) -> list[str]:
    return [f"{_path(fault['loc'])}: {fault['msg']}" for fault in error.errors(include_url=False)]


def _surprise(error: Exception, output_type: Any) -> str:
    """What a validator raised that is no fault of an answer in pydantic's terms."""
    raised = f"{type(error).__name__}: {error}".removesuffix(": ")
    function = extract_tb(error.__traceback__)[-1].name
    return f"a validator of {_name(output_type)} raised {raised} (in {function})"


def _path(keys: tuple[int | str, ...]) -> str:
    return "".join(["$", *(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)])


def _name(output_type: Any) -> str:
    return getattr(output_type, "__qualname__", None) or repr(output_type)
