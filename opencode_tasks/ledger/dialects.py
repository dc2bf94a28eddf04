"""What SQLite and PostgreSQL write differently, as SQL expressions that mean the same on both."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Date, Numeric, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class UtcDay(FunctionElement[Any]):
    """The UTC day of a moment: a date on PostgreSQL, the text YYYY-MM-DD on SQLite."""

    type = Date()
    inherit_cache = True


class Dollars(FunctionElement[Any]):
    """Pico-dollars as dollars: exact on PostgreSQL (numeric), the nearest float on SQLite."""

    type = Numeric()
    inherit_cache = True


class RowName(FunctionElement[Any]):
    """One text for a run and a row of it, to count them apart; a run's id holds no slash."""

    type = Text()
    inherit_cache = True


class PairsOf(FunctionElement[Any]):
    """The pairs of a JSON object, as rows of ``key`` and ``value``; none for NULL."""

    inherit_cache = True


SQL: dict[type[FunctionElement[Any]], dict[str, str]] = {
    UtcDay: {"sqlite": "date({})", "postgresql": "(({}) AT TIME ZONE 'UTC')::date"},
    Dollars: {"sqlite": "({} / 1e12)", "postgresql": "({} / 1000000000000.0)"},
    # Bytes are compared much faster than words of a language.
    RowName: {"sqlite": "({} || '/' || {})", "postgresql": "(({} || '/' || {}) COLLATE \"C\")"},
    PairsOf: {"sqlite": "json_each({})", "postgresql": "json_each_text(({})::json)"},
}


def _compiled(element: FunctionElement[Any], compiler: Any, **more: Any) -> str:
    inner = [compiler.process(clause, **more) for clause in element.clauses]
    return SQL[type(element)][compiler.dialect.name].format(*inner)


for _kind in SQL:
    compiles(_kind)(_compiled)


def label_pairs(labels: ColumnElement[Any]) -> Any:
    """A row for each label of a row: ``c.key`` and ``c.value``."""
    return PairsOf(labels).table_valued("key", "value", joins_implicitly=True, name="pairs")
