"""Tables of a database as INPUT and OUTPUT: ``sql:TABLE``, and ``sql:SELECT …`` as INPUT.

The database is named apart from them, since its address can hold a password.
"""

# pandas comes without types of its own.
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
from opencode_tasks.ledger.url import POSTGRES_DRIVER, POSTGRES_NAMES

PREFIX = "sql:"
DATABASE = "--database"
# What every output table has; a table without them is somebody else's.
OUR_COLUMNS = frozenset({"response", "status", "error_type", "session_id"})
IDS_AT_ONCE = 500
ROWS_AT_ONCE = 200
_QUERY = re.compile(r"\s*(select|with)\b", re.IGNORECASE)
_TABLE = re.compile(r"\w+(\.\w+)?")


def is_sql(name: str) -> bool:
    """Whether INPUT or OUTPUT is a table or a query of a database."""
    return name.startswith(PREFIX)


def read_sql(name: str, database: str | None, *, limit: int | None = None) -> pd.DataFrame:
    """The table or the query's result, its first ``limit`` rows where given, values as Python has them.

    Nothing is written: the transaction is undone. InputError with one line where it cannot be read.
    """
    what = name.removeprefix(PREFIX).strip()
    is_query = _QUERY.match(what) is not None
    if not is_query and not _TABLE.fullmatch(what):
        raise InputError((f"INPUT {name}: neither a table nor a query that begins with SELECT or WITH",))
    try:
        with _engine(database) as engine, engine.connect() as connection:
            if is_query:
                # Colons are the query's own: nothing is filled in.
                result = connection.execute(text(what.replace(":", r"\:")))
            else:
                result = connection.execute(_table(connection, what).select())
            lines = [tuple(line) for line in islice(result, limit)]
            columns = pd.Index(list(result.keys()), dtype=object)
            connection.rollback()
    except NoSuchTableError:
        raise InputError((f"INPUT {name}: there is no such table",)) from None
    except SQLAlchemyError as error:
        raise InputError((f"INPUT {name}: cannot be read: {_words(error)}",)) from None
    return pd.DataFrame(lines, columns=columns, dtype=object)


def table_faults(name: str, database: str | None, columns: Sequence[str] | None) -> list[str]:
    """One line for each reason why OUTPUT could not be written; ``columns`` as in ``Output.faults``."""
    table = name.removeprefix(PREFIX)
    if not _TABLE.fullmatch(table):
        return [f"OUTPUT {name}: not a table's name"]
    try:
        with _engine(database) as engine, engine.connect() as connection:
            there = _columns(connection, table)
    except InputError as error:
        return list(error.faults)
    except SQLAlchemyError as error:
        return [f"OUTPUT {name}: the database cannot be reached: {_words(error)}"]
    if there is not None and not there >= OUR_COLUMNS:
        return [f"OUTPUT {name}: there is such a table already, and it is none of ours; name another"]
    missing = ", ".join(column for column in columns or () if column not in there) if there else ""
    return [f"OUTPUT {name}: the table lacks the columns {missing}; name another"] if missing else []


def write_sql(frame: pd.DataFrame, name: str, database: str | None, *, key: str | None) -> None:
    """Write the frame into a table, made where it is not there, in one transaction.

    With ``key``, a column, the rows that have the same key are replaced and others stay; without,
    the table holds this frame alone. OSError where the database refuses.
    """
    table = name.removeprefix(PREFIX)
    plain = pd.DataFrame({column: _plain(cast("pd.Series", frame[column])) for column in frame.columns})
    schema, _, short = table.rpartition(".")
    try:
        with _engine(database) as engine, engine.begin() as connection:
            if _columns(connection, table) is not None:
                _clear(connection, _table(connection, table), key, plain)
            plain.to_sql(
                short,
                connection,
                schema=schema or None,
                if_exists="append",
                index=False,
                chunksize=ROWS_AT_ONCE,
            )
    except SQLAlchemyError as error:
        raise OSError(f"OUTPUT {name}: cannot be written: {_words(error)}") from None


def _clear(connection: Connection, table: Table, key: str | None, frame: pd.DataFrame) -> None:
    if key is None:
        connection.execute(delete(table))
        return
    ids = frame[key].tolist()
    for start in range(0, len(ids), IDS_AT_ONCE):
        connection.execute(delete(table).where(table.c[key].in_(ids[start : start + IDS_AT_ONCE])))


@contextmanager
def _engine(database: str | None) -> Generator[Engine]:
    if not database:
        raise InputError((f"{DATABASE}: name the database of sql: tables, or set OPENCODE_TASKS_DATABASE",))
    try:
        url = make_url(database)
        if url.drivername in POSTGRES_NAMES:
            url = url.set(drivername=POSTGRES_DRIVER)
        engine = create_engine(url)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        # SQLAlchemy's own words can hold the address, and that the password.
        kind = "is none" if isinstance(error, ArgumentError) else "needs a driver that is not installed"
        raise InputError((f"{DATABASE}: the address {kind}; write it as SQLAlchemy has it",)) from None
    try:
        yield engine
    finally:
        engine.dispose()


def _table(connection: Connection, name: str) -> Table:
    schema, _, short = name.rpartition(".")
    return Table(short, MetaData(), schema=schema or None, autoload_with=connection)


def _columns(connection: Connection, name: str) -> frozenset[str] | None:
    """A table's columns; None where it is not there."""
    schema, _, short = name.rpartition(".")
    found = inspect(connection)
    if not found.has_table(short, schema=schema or None):
        return None
    return frozenset(column["name"] for column in found.get_columns(short, schema=schema or None))


def _plain(column: pd.Series) -> pd.Series:
    if column.dtype != object:
        return column
    return pd.Series([_cell(value) for value in column.tolist()], index=column.index, dtype=object)


def _cell(value: Any) -> Any:
    if is_null(value):
        return None
    return json.dumps(value, ensure_ascii=False, default=str) if is_nested(value) else value


def _words(error: SQLAlchemyError) -> str:
    """The database's own words: SQLAlchemy's hold the statement, and that the rows."""
    cause = cast("Any", error).__dict__.get("orig") or error
    return " ".join(str(cause).split())[:200]
