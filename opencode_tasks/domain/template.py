"""Prompts made from a row's columns: ``{column}`` placeholders, ``{{`` and ``}}`` for braces.

It supports less than ``str.format``: the text between the braces is the exact name of a column, with its
dots and spaces. Neither a template nor the text of a row can access an attribute, an index, a conversion
or a format specification.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from opencode_tasks.errors import InputError

_TOKEN = re.compile(r"(?P<escape>\{\{|\}\})|\{(?P<column>[^{}]*)\}|(?P<stray>[{}])")


def render(template: str, row: Mapping[str, Any]) -> str:
    """Return the template with each placeholder replaced by the row's value of that column.

    A string is inserted unchanged, None as "", lists and objects as JSON, other values as their ``str``.
    Braces in values are not placeholders. Raises InputError if the template is malformed or a
    placeholder names no column of the row.
    """
    return "".join(text if column is None else _value(column, row) for text, column in _pieces(template))


def template_columns(template: str) -> tuple[str, ...]:
    """Return the columns that the template names, each once and in order.

    Raises InputError if the template is malformed.
    """
    return tuple(dict.fromkeys(column for _, column in _pieces(template) if column is not None))


def template_start(template: str) -> str:
    """The text before the first column, with which each prompt begins; "" for a malformed template."""
    start = ""
    try:
        for text, column in _pieces(template):
            if column is not None:
                return start
            start += text
    except InputError:
        pass
    return ""


def _pieces(template: str) -> Iterator[tuple[str, str | None]]:
    end = 0
    for token in _TOKEN.finditer(template):
        yield template[end : token.start()], None
        end = token.end()
        if token["escape"]:
            yield token["escape"][0], None
        elif token["stray"]:
            brace, position = token["stray"], token.start() + 1
            advice = "double the braces of JSON and other text: {{ and }}; {column} is a column of the row"
            raise InputError((f"--template: a single {brace!r} at character {position}; {advice}",))
        elif not token["column"].strip():
            position = token.start() + 1
            raise InputError(
                (f"--template: an empty placeholder at character {position}; name a column in it",)
            )
        else:
            yield "", token["column"]
    yield template[end:], None


def _value(column: str, row: Mapping[str, Any]) -> str:
    if column not in row:
        raise InputError(
            (f"--template: no column {column!r}; the text between braces must be the exact name of a column",)
        )
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
