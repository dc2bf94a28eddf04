"""Prompts made from a row's columns: ``{column}`` placeholders, ``{{`` and ``}}`` for braces.

Deliberately less than ``str.format``: what stands between the braces is a column's exact name
(dots, spaces and all) and nothing else, so neither a template nor a row's text can reach an
attribute, an index, a conversion or a format specification.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from opencode_tasks.errors import InputError

_TOKEN = re.compile(r"(?P<escape>\{\{|\}\})|\{(?P<column>[^{}]*)\}|(?P<stray>[{}])")


def render(template: str, row: Mapping[str, Any]) -> str:
    """The template with each placeholder replaced by the row's value of that column.

    Strings stay as they are, None becomes "", lists and objects JSON, all else its ``str``.
    The values are not looked into for placeholders. InputError for a malformed template and for
    a placeholder that names no column of the row.
    """
    return "".join(text if column is None else _value(column, row) for text, column in _pieces(template))


def template_columns(template: str) -> tuple[str, ...]:
    """The columns that the template names, each once, in order; InputError where malformed."""
    return tuple(dict.fromkeys(column for _, column in _pieces(template) if column is not None))


def _pieces(template: str) -> Iterator[tuple[str, str | None]]:
    end = 0
    for token in _TOKEN.finditer(template):
        yield template[end : token.start()], None
        end = token.end()
        if token["escape"]:
            yield token["escape"][0], None
        elif token["stray"]:
            brace, place = token["stray"], token.start() + 1
            advice = "double the braces of JSON and other text: {{ and }}; {column} stands for a column"
            raise InputError((f"--template: a single {brace!r} at character {place}; {advice}",))
        elif not token["column"].strip():
            place = token.start() + 1
            raise InputError((f"--template: an empty placeholder at character {place}; name a column in it",))
        else:
            yield "", token["column"]
    yield template[end:], None


def _value(column: str, row: Mapping[str, Any]) -> str:
    if column not in row:
        raise InputError(
            (f"--template: no column {column!r}; between braces stands a column's name and nothing else",)
        )
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
