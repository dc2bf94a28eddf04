"""Types of database columns, and cells as a database stores them."""

# pandas and psycopg have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any

import pandas as pd
import pyarrow as pa
from sqlalchemy import Column, Connection, Table, types
from sqlalchemy.dialects.postgresql import CIDR, INET

from opencode_tasks.frames.arrow_frame import MAX_INT64, MIN_INT64, column_cells, original_type
from opencode_tasks.frames.cells import cell_text, is_nested, is_null, json_value

POSTGRESQL, SQLITE = "postgresql", "sqlite"
# Key of ``DataFrame.attrs``: the names of PostgreSQL's types, by column.
TYPE_NAMES = "opencode_tasks.sql_types"
_KINDS: tuple[tuple[set[type], Any], ...] = (
    ({bool}, types.Boolean()),
    ({int}, types.BigInteger()),
    ({int, float}, types.Double()),
    ({bytes}, types.LargeBinary()),
    ({date}, types.Date()),
    ({time}, types.Time()),
    ({Decimal}, types.Numeric()),
    ({uuid.UUID}, types.Uuid()),
    ({timedelta}, types.Interval()),
    ({IPv4Address, IPv6Address, IPv4Interface, IPv6Interface}, INET()),
    ({IPv4Network, IPv6Network}, CIDR()),
)
# Of these, only PostgreSQL stores each value exactly. Elsewhere they are text.
_EXACT_IN_POSTGRESQL = (types.Numeric, types.Uuid, types.Interval, INET, CIDR)


class NamedType(types.UserDefinedType[Any]):
    """A type of PostgreSQL by its name there."""

    cache_ok: bool | None = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        """Return the name."""
        return self.name


def column_types(connection: Connection, result: Any) -> dict[str, str]:
    """Return the names of the types of a result by column; empty if the database is not PostgreSQL."""
    if connection.dialect.name != POSTGRESQL:
        return {}
    known: Any = connection.connection.dbapi_connection
    found: dict[str, str] = {}
    for described in result.cursor.description:
        info = known.adapters.types.get(described.type_code)
        # A cursor knows neither the length of a text nor the name of a type of the user.
        if info is not None:
            is_array = described.type_code == info.array_oid
            found[described.name] = f"{info.regtype or info.name}{'[]' if is_array else ''}"
    return found


def with_exact_types(table: Table, connection: Connection) -> Table:
    """Return a reflected table whose decimals and JSON are read as they are stored in SQLite."""
    if connection.dialect.name == SQLITE:
        for column in table.columns:
            is_decimal = isinstance(column.type, types.Numeric) and not isinstance(column.type, types.Float)
            if is_decimal or isinstance(column.type, types.JSON):
                column.type = types.NullType()
    return table


def with_raw_types(table: Table, connection: Connection) -> Table:
    """Return a reflected table whose values have no type in SQLite, which stores any value in any column."""
    if connection.dialect.name == SQLITE:
        for column in table.columns:
            if not isinstance(column.type, (types.Boolean, types.LargeBinary)):
                column.type = types.NullType()
    return table


def new_column_type(series: pd.Series, attributes: Mapping[Any, Any], dialect: str) -> Any:
    """Return the type of a new column: that in PostgreSQL if it came from there, else by its values."""
    named = attributes.get(TYPE_NAMES, {}).get(series.name)
    if dialect == POSTGRESQL and named is not None:
        return NamedType(named)
    kind = _type_of(series)
    if (
        dialect != POSTGRESQL
        and (isinstance(kind, _EXACT_IN_POSTGRESQL) or (isinstance(kind, types.DateTime) and kind.timezone))
        and not isinstance(kind, types.Float)
    ):
        return types.Text()
    return kind


def stored_values(series: pd.Series, column: Column[Any], dialect: str) -> list[Any]:
    r"""Return the cells of a column for a column of a table.

    A text column gets the text of each cell. Characters that a database cannot store are written as in
    Python: ``\x00``, ``\udc80``.
    """
    is_text = isinstance(column.type, (types.String, types.NullType)) and not isinstance(
        column.type, types.Enum
    )
    is_json = isinstance(column.type, types.JSON)
    values: list[Any] = []
    for cell in column_cells(series):
        if is_null(cell):
            values.append(None)
        elif is_json:
            values.append(json_value(cell))
        elif isinstance(column.type, types.ARRAY):
            values.append(cell)
        elif isinstance(cell, str) or is_nested(cell) or (is_text and not _is_plain(cell, column, dialect)):
            values.append(_storable_text(cell, dialect))
        else:
            values.append(_native(cell))
    return values


def _is_plain(cell: Any, column: Column[Any], dialect: str) -> bool:
    """Return whether a column of any type takes the cell: SQLite has no types."""
    if dialect != SQLITE or not isinstance(column.type, types.NullType):
        return False
    is_number = isinstance(cell, (int, float)) and MIN_INT64 <= cell <= MAX_INT64
    return is_number or isinstance(cell, bytes)


def _storable_text(cell: Any, dialect: str) -> str:
    text = cell_text(cell) or ""
    text = text.replace("\0", "\\x00") if dialect == POSTGRESQL else text
    return text.encode("utf-8", "backslashreplace").decode()


def _native(cell: Any) -> Any:
    if isinstance(cell, pd.Timestamp):
        return cell.to_pydatetime()
    if isinstance(cell, pd.Timedelta):
        return cell.to_pytimedelta()
    return cell


def _type_of(series: pd.Series) -> Any:
    if series.dtype != object:
        found = _type_of_arrow(original_type(series))
        if found is not None and not isinstance(found, (types.DateTime, types.Interval)):
            return found
    else:
        found = None
    cells = [cell for cell in column_cells(series) if not is_null(cell)]
    if not cells:
        return found or types.Text()
    if any(getattr(cell, "nanosecond", getattr(cell, "nanoseconds", 0)) % 1000 for cell in cells):
        # A database has microseconds.
        return types.Text()
    return found or _type_of_cells(cells)


def _type_of_cells(cells: list[Any]) -> Any:
    if all(isinstance(cell, datetime) for cell in cells):
        aware = [cell.tzinfo is not None for cell in cells]
        return types.DateTime(timezone=aware[0]) if len(set(aware)) == 1 else types.Text()
    if any(isinstance(cell, int) and not MIN_INT64 <= cell <= MAX_INT64 for cell in cells):
        return types.Text()
    classes = {type(cell) for cell in cells}
    return next((kind for known, kind in _KINDS if classes <= known), types.Text())


def _type_of_arrow(kind: Any) -> Any:  # noqa: C901, PLR0911 - one line for each kind of type
    """Return the database type for an Arrow type; None if the values decide."""
    if pa.types.is_dictionary(kind):
        return _type_of_arrow(kind.value_type)
    if pa.types.is_boolean(kind):
        return types.Boolean()
    if pa.types.is_integer(kind):
        return types.Numeric(20, 0) if kind == pa.uint64() else types.BigInteger()
    if pa.types.is_floating(kind):
        return types.Double()
    if pa.types.is_timestamp(kind):
        return types.DateTime(timezone=kind.tz is not None)
    if pa.types.is_date(kind):
        return types.Date()
    if pa.types.is_time(kind):
        return types.Time()
    if pa.types.is_decimal(kind):
        return types.Numeric()
    if pa.types.is_duration(kind):
        return types.Interval()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return types.LargeBinary()
    return types.Uuid() if kind == pa.uuid() else types.Text()
