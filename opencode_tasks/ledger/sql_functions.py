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


class SearchedText(FunctionElement[Any]):
    """A text in which a part is searched. Upper and lower case of ASCII letters alone are the same."""

    type: TypeEngine[Any] = Text()
    inherit_cache: bool | None = True


class TextBefore(FunctionElement[Any]):
    """The text before the first of a literal text in it; the whole text without one."""

    type: TypeEngine[Any] = Text()
    inherit_cache: bool | None = True


class JsonPairs(FunctionElement[Any]):
    """The pairs of a JSON object as rows of ``key`` and ``value``; no rows for NULL."""

    inherit_cache: bool | None = True


class AnswerPairs(JsonPairs):
    """The pairs of an answer: no rows if it is no object, or if PostgreSQL cannot read it."""

    inherit_cache: bool | None = True


class JsonScalar(FunctionElement[Any]):
    """The text of an answer that is a text or a number; null for NULL, or if PostgreSQL cannot read it."""

    type: TypeEngine[Any] = Text()
    inherit_cache: bool | None = True


# A model may answer NUL or a half of a surrogate pair in JSON, which PostgreSQL stores and cannot convert.
_UNREADABLE = r"\\u0000|\\ud[89ab]..(?!\\ud[c-f])|(?<!\\ud[89ab]..)\\ud[c-f]"
_READABLE = (
    f"case when strpos(({{0}})::text, '\\u') > 0 and ({{0}})::text ~ '{_UNREADABLE}' then null "
    "else ({0})::json end"
)
_OBJECT = f"case when json_typeof(({{0}})::json) = 'object' then {_READABLE} end"

SQL: dict[type[FunctionElement[Any]], dict[str, str]] = {
    UtcDay: {"sqlite": "date({})", "postgresql": "(({}) AT TIME ZONE 'UTC')::date"},
    Dollars: {"sqlite": "({} / 1e12)", "postgresql": "({} / 1000000000000.0)"},
    # PostgreSQL compares bytes much faster than text in the collation of a language.
    RowName: {"sqlite": "({} || '/' || {})", "postgresql": "(({} || '/' || {}) COLLATE \"C\")"},
    # In the collation of a language, PostgreSQL needs twice the time.
    SearchedText: {"sqlite": "{}", "postgresql": '(({}) COLLATE "C")'},
    TextBefore: {
        "sqlite": "substr({0}, 1, instr({0} || {1}, {1}) - 1)",
        "postgresql": "split_part({0}, {1}, 1)",
    },
    JsonPairs: {"sqlite": "json_each({})", "postgresql": "json_each_text(({})::json)"},
    AnswerPairs: {"sqlite": "json_each({})", "postgresql": f"json_each_text({_OBJECT})"},
    JsonScalar: {
        "sqlite": "cast(json_extract({}, '$') as text)",
        "postgresql": f"(({_READABLE}) #>> '{{{{}}}}')",
    },
}


def _compiled(element: FunctionElement[Any], compiler: Any, **options: Any) -> str:
    arguments = [compiler.process(clause, **options) for clause in element.clauses]
    return SQL[type(element)][compiler.dialect.name].format(*arguments)


for _function in SQL:
    compiles(_function)(_compiled)


def label_pairs(labels: ColumnElement[Any]) -> Any:
    """One row for each label of a row, with the columns ``key`` and ``value``."""
    return _valued(JsonPairs(labels))


def answer_pairs(answer: ColumnElement[Any]) -> Any:
    """One row for each field of an answer that is an object, with the columns ``key`` and ``value``."""
    return _valued(AnswerPairs(answer))


def _valued(pairs: JsonPairs) -> Any:
    return pairs.table_valued("key", "value", joins_implicitly=True, name="pairs")
