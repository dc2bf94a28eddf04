"""Database tables as INPUT and OUTPUT: ``sql:TABLE``, and ``sql:SELECT …`` as INPUT.

The URL of the database is a separate option, because it can contain a password.
"""

# pandas has no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import pandas as pd
from sqlalchemy import Connection, Engine, Table, create_engine, delete, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, NoSuchTableError, SQLAlchemyError
from sqlalchemy.schema import MetaData

from opencode_tasks.errors import InputError
from opencode_tasks.frames.cells import is_nested, is_null
from opencode_tasks.frames.content import one_line
from opencode_tasks.ledger.url import POSTGRES_DRIVER, POSTGRES_NAMES

PREFIX = "sql:"
DATABASE_OPTION = "--database"
# Columns of every table that a run wrote. A table without them is not overwritten.
OUTPUT_COLUMNS = frozenset({"response", "status", "error_type", "session_id"})
IDS_PER_STATEMENT = 500
ROWS_PER_STATEMENT = 200
# A database has 64-bit integers.
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
_QUERY = re.compile(r"\s*(select|with)\b", re.IGNORECASE)
_TABLE = re.compile(r"\w+(\.\w+)?")


def is_sql(name: str) -> bool:
    """Return whether INPUT or OUTPUT is a table or a query of a database."""
    return name.startswith(PREFIX)


def read_sql(name: str, database: str | None, *, limit: int | None = None) -> pd.DataFrame:
    """Return a table or the result of a query with Python values, at most ``limit`` rows if given.

    The transaction is rolled back, so a query cannot change the database. Raises InputError with one
    line if the table or query cannot be read.
    """
    source = name.removeprefix(PREFIX).strip()
    is_query = _QUERY.match(source) is not None
    if not is_query and not _TABLE.fullmatch(source):
        raise InputError((f"INPUT {name}: not a table, and not a query that begins with SELECT or WITH",))
    try:
        with _open_engine(database) as engine, engine.connect() as connection:
            if is_query:
                # Colons belong to the query: it has no parameters.
                result = connection.execute(text(source.replace(":", r"\:")))
            else:
                result = connection.execute(_table(connection, source).select())
            rows = [tuple(row) for row in islice(result, limit)]
            columns = pd.Index(list(result.keys()), dtype=object)
            connection.rollback()
    except NoSuchTableError:
        raise InputError((f"INPUT {name}: there is no such table",)) from None
    except SQLAlchemyError as error:
        raise InputError((f"INPUT {name}: cannot be read: {_database_message(error)}",)) from None
    return pd.DataFrame(rows, columns=columns, dtype=object)


def table_faults(
    name: str, database: str | None, columns: Sequence[str] | None, prefix: str = ""
) -> list[str]:
    """Return one line for each reason why ``write_sql`` would fail; ``columns`` None is unknown.

    ``prefix`` precedes the names of the columns that OUTPUT adds.
    """
    table = name.removeprefix(PREFIX)
    if not _TABLE.fullmatch(table):
        return [f"OUTPUT {name}: not the name of a table"]
    try:
        with _open_engine(database) as engine, engine.connect() as connection:
            existing = _column_names(connection, table)
    except InputError as error:
        return list(error.faults)
    except SQLAlchemyError as error:
        return [f"OUTPUT {name}: the database cannot be reached: {_database_message(error)}"]
    if existing is None:
        return []
    if not existing >= {prefix + column for column in OUTPUT_COLUMNS}:
        return [f"OUTPUT {name}: the table exists and was not written by opencode-tasks; use another name"]
    missing = ", ".join(column for column in columns or () if column not in existing)
    return [f"OUTPUT {name}: the table has no columns {missing}; use another name"] if missing else []


def write_sql(frame: pd.DataFrame, name: str, database: str | None, *, key: str | None) -> None:
    """Write the frame to a table in one transaction; the table is created if it does not exist.

    ``key`` is a column: rows of the table with the same key are replaced, and the others are kept. If it
    is None, all rows of the table are replaced. Raises OSError if the database reports an error.
    """
    table = name.removeprefix(PREFIX)
    schema, _, table_name = table.rpartition(".")
    try:
        with _open_engine(database) as engine, engine.begin() as connection:
            keeps_nul = engine.dialect.name != "postgresql"
            plain = pd.DataFrame(
                {
                    column: _sql_values(cast("pd.Series", frame[column]), keeps_nul=keeps_nul)
                    for column in frame.columns
                }
            )
            if _column_names(connection, table) is not None:
                _delete_rows(connection, _table(connection, table), key, plain)
            plain.to_sql(
                table_name,
                connection,
                schema=schema or None,
                if_exists="append",
                index=False,
                chunksize=ROWS_PER_STATEMENT,
            )
    except SQLAlchemyError as error:
        raise OSError(f"OUTPUT {name}: cannot be written: {_database_message(error)}") from None


def _delete_rows(connection: Connection, table: Table, key: str | None, frame: pd.DataFrame) -> None:
    if key is None:
        connection.execute(delete(table))
        return
    ids = frame[key].tolist()
    for start in range(0, len(ids), IDS_PER_STATEMENT):
        connection.execute(delete(table).where(table.c[key].in_(ids[start : start + IDS_PER_STATEMENT])))


@contextmanager
def _open_engine(database: str | None) -> Generator[Engine]:
    if not database:
        raise InputError(
            (f"{DATABASE_OPTION}: sql: needs the URL of a database; pass it or set OPENCODE_TASKS_DATABASE",)
        )
    try:
        url = make_url(database)
        if url.drivername in POSTGRES_NAMES:
            url = url.set(drivername=POSTGRES_DRIVER)
        engine = create_engine(url)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        # SQLAlchemy's message can contain the URL and its password.
        reason = (
            "is not valid" if isinstance(error, ArgumentError) else "needs a driver that is not installed"
        )
        raise InputError(
            (
                f"{DATABASE_OPTION}: the URL {reason}; write it as SQLAlchemy does: postgresql://user@host/name",
            )
        ) from None
    try:
        yield engine
    finally:
        engine.dispose()


def _table(connection: Connection, name: str) -> Table:
    schema, _, table_name = name.rpartition(".")
    return Table(table_name, MetaData(), schema=schema or None, autoload_with=connection)


def _column_names(connection: Connection, name: str) -> frozenset[str] | None:
    """Return the columns of a table; None if it does not exist."""
    schema, _, table_name = name.rpartition(".")
    inspector = inspect(connection)
    if not inspector.has_table(table_name, schema=schema or None):
        return None
    return frozenset(column["name"] for column in inspector.get_columns(table_name, schema=schema or None))


def _sql_values(column: pd.Series, *, keeps_nul: bool) -> pd.Series:
    r"""Return a column with None for null and JSON text for nested values.

    A column with an integer above 64 bits is text. Characters that a database cannot store are written
    as in Python: ``\x00``, ``\udc80``.
    """
    if column.dtype != object and not pd.api.types.is_string_dtype(column.dtype):
        return column
    values = [_sql_value(value, keeps_nul=keeps_nul) for value in column.tolist()]
    if any(isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER for value in values):
        values = [None if value is None else str(value) for value in values]
    return pd.Series(values, index=column.index, dtype=object)


def _sql_value(value: Any, *, keeps_nul: bool) -> Any:
    if is_null(value):
        return None
    if is_nested(value):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if not isinstance(value, str):
        return value
    text_value = value if keeps_nul else value.replace("\0", "\\x00")
    return text_value.encode("utf-8", "backslashreplace").decode()


def _database_message(error: SQLAlchemyError) -> str:
    """Return the message of the database driver: SQLAlchemy's contains the statement and its rows."""
    return one_line(cast("Any", error).__dict__.get("orig") or error)
