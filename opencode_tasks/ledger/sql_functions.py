"""SQL expressions that SQLite and PostgreSQL write differently and that mean the same on both."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Date, Numeric, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine


class UtcDay(FunctionElement[Any]):
    """The UTC day of a time: a date on PostgreSQL, the text YYYY-MM-DD on SQLite."""

    type: TypeEngine[Any] = Date()
    inherit_cache: bool | None = True


class Dollars(FunctionElement[Any]):
    """Pico-dollars as dollars: exact (numeric) on PostgreSQL, the nearest float on SQLite."""

    type: TypeEngine[Any] = Numeric()
    inherit_cache: bool | None = True


class RowName(FunctionElement[Any]):
    """One text for a run and a row of it, for distinct counts. A run id contains no slash."""

    type: TypeEngine[Any] = Text()
    inherit_cache: bool | None = True


class JsonPairs(FunctionElement[Any]):
    """The pairs of a JSON object as rows of ``key`` and ``value``; no rows for NULL."""

    inherit_cache: bool | None = True


class JsonScalar(FunctionElement[Any]):
    """The text of a JSON value that is a text or a number; null for NULL."""

    type: TypeEngine[Any] = Text()
    inherit_cache: bool | None = True


SQL: dict[type[FunctionElement[Any]], dict[str, str]] = {
    UtcDay: {"sqlite": "date({})", "postgresql": "(({}) AT TIME ZONE 'UTC')::date"},
    Dollars: {"sqlite": "({} / 1e12)", "postgresql": "({} / 1000000000000.0)"},
    # PostgreSQL compares bytes much faster than text in the collation of a language.
    RowName: {"sqlite": "({} || '/' || {})", "postgresql": "(({} || '/' || {}) COLLATE \"C\")"},
    JsonPairs: {"sqlite": "json_each({})", "postgresql": "json_each_text(({})::json)"},
    JsonScalar: {"sqlite": "cast(json_extract({}, '$') as text)", "postgresql": "(({})::json #>> '{{}}')"},
}


def _compiled(element: FunctionElement[Any], compiler: Any, **options: Any) -> str:
    arguments = [compiler.process(clause, **options) for clause in element.clauses]
    return SQL[type(element)][compiler.dialect.name].format(*arguments)


for _function in SQL:
    compiles(_function)(_compiled)


def pairs_of(json_object: ColumnElement[Any]) -> Any:
    """One row for each pair of a JSON object, such as the labels of a row: ``key`` and ``value``."""
    return JsonPairs(json_object).table_valued("key", "value", joins_implicitly=True, name="pairs")
