"""INSERT … ON CONFLICT statements that are compiled once.

SQLAlchemy 2.0 compiles such a statement at each execution, which costs one or two milliseconds, and
a row needs several of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Table, TextClause, bindparam, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg2

Insert = sqlite.Insert | postgresql.Insert
Conflict = Callable[[Any], Insert]


class Upsert:
    """Inserts rows into ``table``. ``conflict`` adds the ON CONFLICT clause to the insert."""

    def __init__(self, table: Table, columns: Sequence[str], conflict: Conflict) -> None:
        self._table = table
        self._columns = columns
        self._conflict = conflict
        self._compiled = cache(self._compile)

    def execute(self, connection: Connection, values: Sequence[dict[str, Any]]) -> None:
        """Write rows, each with a value for every column; an empty sequence writes nothing."""
        if values:
            connection.execute(self._compiled(connection.dialect.name), values)

    def _compile(self, dialect_name: str) -> TextClause:
        names: dict[str, Any] = {name: bindparam(name) for name in self._columns}
        # Dialects without a driver write parameters in the style that ``text`` reads.
        if dialect_name == "sqlite":
            insert = self._conflict(sqlite.insert(self._table).values(names))
            sql = str(insert.compile(dialect=sqlite.dialect(paramstyle="named")))
        else:
            insert = self._conflict(postgresql.insert(self._table).values(names))
            # The one that writes no types behind the parameters, which ``text`` cannot read.
            sql = str(insert.compile(dialect=psycopg2.dialect(paramstyle="named")))
        typed = [bindparam(name, type_=self._table.c[name].type) for name in self._columns]
        return text(sql).bindparams(*typed)


def do_nothing(insert: Any) -> Insert:
    """Keep the existing row."""
    return insert.on_conflict_do_nothing()
