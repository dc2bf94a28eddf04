"""Database tables as INPUT and OUTPUT: ``sql:TABLE``, and ``sql:SELECT …`` as INPUT.

The URL of the database is a separate option, because it can contain a password.
"""

# pandas has no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import pandas as pd
from sqlalchemy import Column, Connection, Engine, Table, create_engine, delete, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, NoSuchTableError, SQLAlchemyError
from sqlalchemy.schema import MetaData

from opencode_tasks.errors import InputError
from opencode_tasks.frames.content import one_line
from opencode_tasks.frames.sql_types import (
    TYPE_NAMES,
    column_types,
    new_column_type,
    stored_values,
    with_exact_types,
    with_raw_types,
)
from opencode_tasks.ledger.url import POSTGRES_DRIVER, POSTGRES_NAMES

PREFIX = "sql:"
DATABASE_OPTION = "--database"
# Columns of every table that a run wrote. A table without them is not overwritten.
OUTPUT_COLUMNS = frozenset({"response", "status", "error_type", "session_id"})
IDS_PER_STATEMENT = 500
# https://www.postgresql.org/docs/current/limits.html
MAX_POSTGRESQL_NAME_BYTES = 63
ROWS_PER_STATEMENT = 200
_QUERY = re.compile(r"\s*(select|with)\b", re.IGNORECASE)
_TABLE = re.compile(r"\w+(\.\w+)?")
_IN_SCHEMA = re.compile(r"(\w+)\.(.+)", re.DOTALL)


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
    try:
        with _open_engine(database) as engine, engine.connect() as connection:
            if is_query:
                # Colons belong to the query: it has no parameters.
                statement: Any = text(source.replace(":", r"\:"))
            else:
                statement = with_exact_types(_table(connection, source), connection).select()
            try:
                frame = _read(connection, statement, limit)
            except ValueError:
                # SQLite stores any text in a column for times.
                raw = with_raw_types(_table(connection, source), connection)
                frame = _read(connection, raw.select(), limit)
            connection.rollback()
            return frame
    except NoSuchTableError:
        is_name = _TABLE.fullmatch(source) is not None
        fault = (
            "there is no such table"
            if is_name
            else "not a table, and not a query that begins with SELECT or WITH"
        )
        raise InputError((f"INPUT {name}: {fault}",)) from None
    except SQLAlchemyError as error:
        raise InputError((f"INPUT {name}: cannot be read: {_database_message(error)}",)) from None


def _read(connection: Connection, statement: Any, limit: int | None) -> pd.DataFrame:
    """Return the rows of a statement, with the names of PostgreSQL's types in the attributes of the frame."""
    result = connection.execute(statement)
    types = column_types(connection, result)
    rows = [tuple(row) for row in islice(result, limit)]
    frame = pd.DataFrame(rows, columns=pd.Index(list(result.keys()), dtype=object), dtype=object)
    frame.attrs[TYPE_NAMES] = types
    return frame


def table_faults(
    name: str,
    database: str | None,
    columns: Sequence[str] | None,
    prefix: str = "",
    sample: pd.DataFrame | None = None,
) -> list[str]:
    """Return one line for each reason why ``write_sql`` would fail; ``columns`` None is unknown.

    ``prefix`` precedes the names of the columns that OUTPUT adds. The rows of ``sample`` are written in a
    transaction that is rolled back.
    """
    table = name.removeprefix(PREFIX)
    longest = None
    if not _TABLE.fullmatch(table):
        return [f"OUTPUT {name}: not the name of a table"]
    try:
        with _open_engine(database) as engine, engine.connect() as connection:
            existing = _column_names(connection, table)
            if engine.dialect.name == "postgresql":
                longest = MAX_POSTGRESQL_NAME_BYTES
    except InputError as error:
        return list(error.faults)
    except SQLAlchemyError as error:
        return [f"OUTPUT {name}: the database cannot be reached: {_database_message(error)}"]
    missing = ", ".join(column for column in columns or () if existing and column not in existing)
    faults = [
        f"OUTPUT {name}: the columns {pair} differ by case only; rename one of them"
        for pair in _differ_by_case(columns or ())
    ]
    if "" in (columns or ()):
        faults.append(f"OUTPUT {name}: a column has no name, which a database needs; rename it")
    faults += [
        f"OUTPUT {name}: the name {one!r} has {size} bytes: PostgreSQL keeps {longest} of a name; shorten it"
        for one in (*table.split("."), *(columns or ()))
        if longest is not None and (size := len(one.encode())) > longest
    ]
    if existing is not None and not existing >= {prefix + column for column in OUTPUT_COLUMNS}:
        faults = [f"OUTPUT {name}: the table exists and was not written by opencode-tasks; use another name"]
    elif missing:
        faults.append(f"OUTPUT {name}: the table has no columns {missing}; use another name")
    return faults or _trial_faults(name, database, sample)


def _differ_by_case(columns: Sequence[str]) -> list[str]:
    """Return the columns that a database may take for the same, such as ``Status and status``."""
    spellings: dict[str, dict[str, None]] = {}
    for column in columns:
        spellings.setdefault(column.casefold(), {})[column] = None
    return [" and ".join(map(repr, found)) for found in spellings.values() if len(found) > 1]


def _trial_faults(name: str, database: str | None, sample: pd.DataFrame | None) -> list[str]:
    if sample is None or not sample.columns.is_unique:
        return []
    try:
        with _open_engine(database) as engine, engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                # The driver begins a transaction before an INSERT, but not before a CREATE TABLE.
                connection.exec_driver_sql("BEGIN")
            try:
                _write(connection, sample, name.removeprefix(PREFIX), key=None, replaces=False)
            finally:
                connection.rollback()
    except (SQLAlchemyError, ValueError, TypeError, OverflowError) as error:
        return [f"OUTPUT {name}: the columns cannot be written: {_database_message(error)}"]
    return []


def write_sql(frame: pd.DataFrame, name: str, database: str | None, *, key: str | None) -> None:
    """Write the frame to a table in one transaction; the table is created if it does not exist.

    ``key`` is a column: rows of the table with the same key are replaced, and the others are kept. If it
    is None, all rows of the table are replaced. A column that came from PostgreSQL has its type there; see
    ``sql_types`` for others. Raises OSError if the database reports an error.
    """
    try:
        with _open_engine(database) as engine, engine.begin() as connection:
            _write(connection, frame, name.removeprefix(PREFIX), key=key, replaces=True)
    except SQLAlchemyError as error:
        raise OSError(f"OUTPUT {name}: cannot be written: {_database_message(error)}") from None


def _write(
    connection: Connection, frame: pd.DataFrame, name: str, *, key: str | None, replaces: bool
) -> None:
    """Add the rows of a frame to a table, which is created if there is none.

    With ``replaces``, rows with the same ``key`` are removed first, or all rows if it is None.
    """
    if key is not None and not len(frame) and key not in frame.columns:
        # An input without rows and without columns, such as an empty JSON Lines file.
        return
    if _column_names(connection, name) is None:
        schema, _, table_name = name.rpartition(".")
        dialect = connection.dialect.name
        made = [
            Column(str(label), new_column_type(cast("pd.Series", frame[label]), frame.attrs, dialect))
            for label in frame.columns
        ]
        Table(table_name, MetaData(), *made, schema=schema or None).create(connection)
    table = with_raw_types(_table(connection, name), connection)
    columns = {
        str(label): stored_values(
            cast("pd.Series", frame[label]), table.c[str(label)], connection.dialect.name
        )
        for label in frame.columns
    }
    if replaces:
        _delete_rows(connection, table, None if key is None else table.c[key], columns.get(key or "", []))
    for start in range(0, len(frame), ROWS_PER_STATEMENT):
        span = slice(start, start + ROWS_PER_STATEMENT)
        rows = zip(*(values[span] for values in columns.values()), strict=True)
        connection.execute(table.insert(), [dict(zip(columns, row, strict=True)) for row in rows])


def _delete_rows(connection: Connection, table: Table, key: Column[Any] | None, ids: list[Any]) -> None:
    if key is None:
        connection.execute(delete(table))
        return
    for start in range(0, len(ids), IDS_PER_STATEMENT):
        connection.execute(delete(table).where(key.in_(ids[start : start + IDS_PER_STATEMENT])))


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
    # Other names with a dot are those of a table: a schema is a word.
    found = _IN_SCHEMA.fullmatch(name)
    schema, table_name = found.groups() if found else (None, name)
    return Table(table_name, MetaData(), schema=schema, autoload_with=connection)


def _column_names(connection: Connection, name: str) -> frozenset[str] | None:
    """Return the columns of a table; None if it does not exist."""
    schema, _, table_name = name.rpartition(".")
    inspector = inspect(connection)
    if not inspector.has_table(table_name, schema=schema or None):
        return None
    return frozenset(column["name"] for column in inspector.get_columns(table_name, schema=schema or None))


def _database_message(error: Exception) -> str:
    """Return the message of the database driver: SQLAlchemy's contains the statement and its rows."""
    return one_line(cast("Any", error).__dict__.get("orig") or error)
