"""Frames of other libraries: taken and given back through Arrow, without code for any of them."""

# pandas and pyarrow have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar, cast

import pandas as pd
import pyarrow as pa

from opencode_tasks.errors import InputError
from opencode_tasks.frames.arrow_frame import arrow_table, frame_of
from opencode_tasks.frames.content import one_line

_OBJECT = re.compile(r"(?<!['\"])\bObject\b(?!['\"])")
FrameT = TypeVar("FrameT")


class ArrowFrame(Protocol):
    """A table with the PyCapsule interface of Arrow, such as a frame of pandas or polars."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the table as an Arrow stream."""
        ...


def taken(frame: Any) -> pd.DataFrame:
    """Return a frame of any library as a pandas frame. A pandas frame is copied.

    Raises InputError if it has no Arrow stream, or a column of Python objects.
    """
    if isinstance(frame, pd.DataFrame):
        return frame.copy()
    if not hasattr(frame, "__arrow_c_stream__"):
        kinds = "a frame of pandas or polars, a pyarrow table, or another object with __arrow_c_stream__"
        raise InputError((f"frame: {kinds} is required, not {type(frame).__name__}",))
    if (name := _object_column(frame)) is not None:
        fault = "holds Python objects, which have no Arrow type: convert it to text or to another type"
        raise InputError((f"frame: the column {name!r} {fault}",))
    try:
        return frame_of(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        name = _unknown_column(frame)
        where = "" if name is None else f"column {name!r}: "
        raise InputError(
            (f"frame: {where}{type(frame).__name__} is not an Arrow table: {one_line(error)}",)
        ) from error


def _object_column(frame: Any) -> str | None:
    """Return the first column with the dtype Object, at any depth; None if there is none.

    polars exports such a column as the addresses of its objects in memory. The name of a field or category
    is in quotation marks.
    """
    schema = getattr(frame, "schema", None)
    types = cast("Mapping[object, object]", schema) if isinstance(schema, Mapping) else {}
    return next((str(name) for name, kind in types.items() if _OBJECT.search(str(kind))), None)


def _unknown_column(frame: Any) -> str | None:
    """Return the first column that is no Arrow column; None if none is found."""
    for name in getattr(frame, "columns", ()):
        try:
            pa.table(frame[[name]])
        except (pa.ArrowException, TypeError, ValueError):
            return str(name)
    return None


def given_back(parts: Iterable[pd.DataFrame], kind: type[FrameT] | None) -> FrameT:
    """Return the parts of a table as one frame of a class; a pandas frame keeps its index.

    The class is called with the Arrow table, or its method ``from_arrow`` is. A class that offers neither
    gives a pyarrow table.
    """
    if kind is None or issubclass(kind, pd.DataFrame):
        return cast("FrameT", pd.concat(list(parts)))
    table = arrow_table(parts)
    if issubclass(kind, pa.Table):
        return table
    makers: tuple[Any, ...] = (getattr(kind, "from_arrow", None), kind)
    for make in makers:
        if make is not None:
            try:
                return cast("FrameT", make(table))
            except (TypeError, ValueError, AttributeError):
                continue
    return table
