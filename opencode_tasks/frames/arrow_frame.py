"""Frames whose columns are Arrow arrays, so that every type and value of a table is kept.

A table that is read from a file, or given as an Arrow object, is a pandas frame with ``pd.ArrowDtype``
columns. Two extension types hold what pandas has no column for: ``_Held`` and ``_JsonCells``. They are for
this process alone: ``arrow_table`` never returns them.
"""

# pandas and pyarrow have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUntypedBaseClass=false

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from itertools import islice
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as kinds

from opencode_tasks.frames.cells import cell_text, json_value, kind_without_text

T = TypeVar("T")
BATCH_ROWS = 10_000
# Integers up to this size are exact as 64-bit floats.
MAX_EXACT_INTEGER = 2**53
MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1
# Key of ``DataFrame.attrs``: the columns that have no nulls by their schema.
REQUIRED = "opencode_tasks.required"
_STORED_INDEX = re.compile(r"__index_level_\d+__")


class _Held(pa.ExtensionType):
    """A column in a type that pandas can hold, of which ``original`` is the type in the file."""

    def __init__(self, original: Any) -> None:
        self.original = original
        super().__init__(_supported(original), "opencode_tasks.held")

    def __hash__(self) -> int:
        return hash(self.original)

    def __arrow_ext_serialize__(self) -> bytes:
        """Serialize the original type."""
        return pa.schema([pa.field("", self.original)]).serialize().to_pybytes()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Self:
        """Make the type from its serialized form."""
        del storage
        return cls(pa.ipc.read_schema(pa.py_buffer(serialized)).field(0).type)


class _JsonCells(pa.ExtensionType):
    """A column with the JSON text of each cell, for cells without a common Arrow type."""

    def __init__(self) -> None:
        super().__init__(pa.large_string(), "opencode_tasks.json_cells")

    def __hash__(self) -> int:
        return hash(_JsonCells)

    def __arrow_ext_serialize__(self) -> bytes:
        """Serialize nothing: the type has no parameters."""
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Self:
        """Make the type."""
        del storage, serialized
        return cls()


def frame_of(data: Any) -> pd.DataFrame:
    """Return the frame of an Arrow table, or of any object with ``__arrow_c_stream__``.

    No value is copied. Levels of a stored pandas index are columns if they have a name.
    """
    table = data if isinstance(data, pa.Table) else pa.table(data)
    stored = _index_levels(table.schema)
    for level in stored:
        # pandas 3 makes a range of an index of integers with one step, and no values are stored.
        if isinstance(level, Mapping) and level["name"] is not None:
            name, start, step = str(level["name"]), level["start"], level["step"]
            if name not in table.column_names:
                values = range(start, start + step * len(table), step)
                table = table.append_column(name, pa.array(values, pa.int64()))
    kept = [
        at
        for at, name in enumerate(table.column_names)
        if not (name in stored and _STORED_INDEX.fullmatch(name))
    ]
    frame = pd.DataFrame(
        {at: pd.Series(_pandas_array(table.column(at))) for at in kept}, index=pd.RangeIndex(len(table))
    )
    frame.columns = pd.Index([table.column_names[at] for at in kept], dtype=object)
    frame.attrs[REQUIRED] = [field.name for field in table.schema if not field.nullable]
    return frame


def arrow_series(array: Any) -> pd.Series:
    """Return an Arrow array as a column of a frame."""
    return pd.Series(_pandas_array(pa.chunked_array([array])))


def _index_levels(schema: Any) -> Sequence[Any]:
    """Return the levels of a stored pandas index: the name of a column, or the mapping of a range."""
    try:
        return (schema.pandas_metadata or {}).get("index_columns", ())
    except ValueError:  # the metadata are not JSON
        return ()


def batches(rows: Iterable[T]) -> Iterator[list[T]]:
    """Yield lists of 10,000 rows, so that a large table is not Python objects at the same time."""
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH_ROWS)):
        yield batch


def column_cells(series: pd.Series) -> list[Any]:
    """Return the cells of a column as Python values: None for null, dictionaries for structs and maps."""
    if series.dtype == object:
        return series.tolist()
    try:
        array = _stored_array(series)
    except (pa.ArrowException, TypeError, ValueError):
        return series.tolist()
    if isinstance(array.type, _JsonCells):
        return [None if text is None else json.loads(text) for text in _storage(array).to_pylist()]
    is_foreign = isinstance(array.type, pa.BaseExtensionType) and not isinstance(array.type, _Held)
    return series.tolist() if is_foreign else _pylist(array)


def held_without_text(series: pd.Series) -> str | None:
    """Return what a column holds that has no text, such as ``bytes``, at any depth; None if it has a text."""
    if isinstance(series.dtype, pd.ArrowDtype):
        return "bytes" if _is_binary(original_type(series)) else None
    if series.dtype != object:
        return None
    return next((kind for kind in map(kind_without_text, series.tolist()) if kind is not None), None)


def original_type(series: pd.Series) -> Any:
    """Return the Arrow type of a column; for a column that does not hold Python objects."""
    kind = (
        series.dtype.pyarrow_dtype if isinstance(series.dtype, pd.ArrowDtype) else _stored_array(series).type
    )
    return kind.original if isinstance(kind, _Held) else kind


def arrow_array(series: pd.Series) -> Any:
    """Return a column as an Arrow array; as JSON text if Arrow or Parquet has no type for its values.

    An Arrow column is returned unchanged.
    """
    try:
        array = _stored_array(series)
        if isinstance(array.type, _Held):
            return _cast(_storage(array), array.type.original)
        if isinstance(series.dtype, pd.ArrowDtype) and not isinstance(array.type, _JsonCells):
            return array
        if isinstance(array.type, _JsonCells):
            array = pa.array(column_cells(series))
        if kinds.is_null(array.type):
            return array.cast(pa.string())
        if not isinstance(array.type, pa.BaseExtensionType) and not _has_structs(array.type):
            return array
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass
    return pa.array([_text(value) for value in column_cells(series)], type=pa.string())


def arrow_table(frames: Iterable[pd.DataFrame]) -> Any:
    """Return frames with the same columns, one at least, as one Arrow table without their index.

    A column is JSON text if its frames have no common type.
    """
    names: list[str] = []
    required: Sequence[str] = ()
    parts: list[list[Any]] = []
    for frame in frames:
        names = [str(name) for name in frame.columns]
        required = frame.attrs.get(REQUIRED, ())
        parts.append([arrow_array(frame.iloc[:, at]) for at in range(len(names))])
    columns = [_join_parts(list(column)) for column in zip(*parts, strict=True)]
    fields = [
        pa.field(name, column.type, nullable=name not in required or column.null_count > 0)
        for name, column in zip(names, columns, strict=True)
    ]
    return pa.table(columns, schema=pa.schema(fields))


def without_empty_structs(table: Any) -> Any:
    """Return the table with JSON text in columns that hold structs without fields: Parquet has none."""
    for at, field in enumerate(table.schema):
        if _has_empty_struct(field.type):
            texts = pa.array([_text(cell) for cell in _pylist(table.column(at))], pa.string())
            table = table.set_column(at, field.name, texts)
    return table


def arrow_column(values: Sequence[Any]) -> Any:
    """Return values of JSON or of a spreadsheet as an Arrow array that keeps each of them."""
    present = [value for value in values if value is not None]
    types = {type(value) for value in present}
    try:
        if not present:
            return pa.nulls(len(values))
        if types == {int} and all(MIN_INT64 <= value <= MAX_INT64 for value in present):
            return pa.array(values, pa.int64())
        if types == {int, float} and all(
            abs(value) <= MAX_EXACT_INTEGER for value in present if type(value) is int
        ):
            return pa.array([None if value is None else float(value) for value in values], pa.float64())
        if len(types) == 1 and types <= {str, bool, float}:
            return pa.array(values, pa.large_string() if types == {str} else None, from_pandas=False)
        if len(types) == 1 and not types & {int, dict, list}:
            return pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError):
        pass
    return _as_json(values)


class ColumnBuilder:
    """Columns of a table whose rows come in batches, each batch with its own set of columns.

    Attributes:
        rows: Number of rows so far.
    """

    def __init__(self) -> None:
        self.rows: int = 0
        self._parts: dict[str, list[Any]] = {}
        self._filled: dict[str, int] = {}

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a batch of rows; a missing key is null."""
        for name in dict.fromkeys(name for row in rows for name in row):
            parts = self._parts.setdefault(name, [])
            if missing := self.rows - self._filled.get(name, 0):
                parts.append(pa.nulls(missing))
            parts.append(arrow_column([row.get(name) for row in rows]))
            self._filled[name] = self.rows + len(rows)
        self.rows += len(rows)

    def add_frame(self, frame: pd.DataFrame) -> None:
        """Add the rows of a frame that a builder returned; a missing column is null."""
        for at, name in enumerate(map(str, frame.columns)):
            parts = self._parts.setdefault(name, [])
            if missing := self.rows - self._filled.get(name, 0):
                parts.append(pa.nulls(missing))
            # A column without rows may have no Arrow type.
            parts.extend(_stored_array(frame.iloc[:, at]).chunks if len(frame) else ())
            self._filled[name] = self.rows + len(frame)
        self.rows += len(frame)

    def frame(self) -> pd.DataFrame:
        """Return the rows as a frame. A column without a common type keeps the JSON of each cell."""
        columns: list[Any] = []
        for name, parts in self._parts.items():
            if missing := self.rows - self._filled[name]:
                parts.append(pa.nulls(missing))
            columns.append(_join_exact(parts))
        frame = frame_of(pa.table(columns, names=list(self._parts)))
        return frame if columns else pd.DataFrame(index=pd.RangeIndex(self.rows))


def _join_exact(parts: list[Any]) -> Any:
    types = {part.type for part in parts if not kinds.is_null(part.type)}
    if types == {pa.int64(), pa.float64()} and all(
        abs(value) <= MAX_EXACT_INTEGER
        for part in parts
        if kinds.is_int64(part.type)
        for value in part.drop_null().to_pylist()
    ):
        types = {pa.float64()}
    if len(types) > 1:
        types = {_JsonCells()}
        parts = [
            part
            if isinstance(part.type, _JsonCells) or kinds.is_null(part.type)
            else _as_json(part.to_pylist())
            for part in parts
        ]
    if not types:
        return pa.chunked_array(parts, type=pa.string() if not parts else None)
    (kind,) = types
    return pa.chunked_array(
        [pa.nulls(len(part), kind) if kinds.is_null(part.type) else part.cast(kind) for part in parts],
        type=kind,
    )


def _as_json(values: Sequence[Any]) -> Any:
    texts = [None if value is None else json.dumps(_plain(value)) for value in values]
    return pa.ExtensionArray.from_storage(_JsonCells(), pa.array(texts, pa.large_string()))


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, dict, list)) else json_value(value)


def _stored_array(series: pd.Series) -> Any:
    """Return a column as Arrow has it: an Arrow column as it is, others with the types that Arrow finds."""
    if isinstance(series.dtype, pd.ArrowDtype):
        array: Any = series.array
        return array.__arrow_array__()
    return pa.Array.from_pandas(series)


def _pandas_array(column: Any) -> Any:
    if kinds.is_run_end_encoded(column.type):
        column = pc.call_function("run_end_decode", [column])
    supported = _supported(column.type)
    if supported != column.type:
        chunks = [
            pa.ExtensionArray.from_storage(_Held(column.type), chunk)
            for chunk in _cast(_storage(column), supported).chunks
        ]
        column = pa.chunked_array(chunks, type=_Held(column.type))
    return pd.arrays.ArrowExtensionArray(column)


def _storage(column: Any) -> Any:
    """Return a chunked array of an extension type as one of its storage type."""
    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    return pa.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)


def _cast(column: Any, kind: Any) -> Any:
    """Return a chunked array in another type; an extension type takes the storage as it is."""
    if not isinstance(kind, pa.BaseExtensionType):
        return column.cast(kind)
    stored = column.cast(kind.storage_type)
    return pa.chunked_array(
        [pa.ExtensionArray.from_storage(kind, chunk) for chunk in stored.chunks], type=kind
    )


def _supported(kind: Any) -> Any:
    """Return a type with the same values of which pandas can take rows."""
    if isinstance(kind, _JsonCells):
        return kind
    if isinstance(kind, pa.BaseExtensionType):
        return _supported(kind.storage_type)
    if kinds.is_string_view(kind) or kinds.is_binary_view(kind):
        return pa.large_string() if kinds.is_string_view(kind) else pa.large_binary()
    return _with_inner(kind, _supported)


def _with_inner(kind: Any, change: Callable[[Any], Any]) -> Any:
    """Return a type whose inner types are changed; a type without inner types is unchanged."""
    if kinds.is_struct(kind):
        return pa.struct([field.with_type(change(field.type)) for field in kind])
    if kinds.is_map(kind):
        return pa.map_(
            kind.key_field.with_type(change(kind.key_type)), kind.item_field.with_type(change(kind.item_type))
        )
    if kinds.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(change(kind.value_type)), kind.list_size)
    if kinds.is_list(kind) or kinds.is_large_list(kind):
        make = pa.list_ if kinds.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(change(kind.value_type)))
    return kind


def _pylist(array: Any) -> list[Any]:
    if isinstance(array.type, _Held):
        return _exact_cells(_pylist(_storage(array)), array.type.original)
    if kinds.is_time64(array.type) and array.type.unit == "ns":
        return [None if cell is None else _time_of(cell) for cell in array.cast(pa.int64()).to_pylist()]
    kind = array.type
    array = _with_shortest_floats(array)
    try:
        cells: list[Any] = array.to_pylist(maps_as_pydicts="strict")
    except (KeyError, TypeError, ValueError, OverflowError, pa.ArrowException):
        # The cells one by one, so that the text of a cell does not depend on the others.
        cells = [_python_value(cell) for cell in array]
    return _exact_cells(cells, kind)


def _python_value(cell: Any) -> Any:
    """Return an Arrow cell as a Python value; pairs for an object with a repeated key."""
    for maps in ("strict", None):
        # A key occurs twice in a map or cannot be hashed, a struct has two fields of one name, or Python has
        # no such time.
        with suppress(KeyError, TypeError, ValueError, OverflowError, pa.ArrowException):
            return cell.as_py(maps_as_pydicts=maps)
    kind = cell.type
    if kinds.is_map(kind):
        return _mapping([(_python_value(entry[0]), _python_value(entry[1])) for entry in cell.values])  # noqa: PD011
    if kinds.is_struct(kind):
        names = [field.name for field in kind]
        return _mapping([(name, _python_value(cell[at])) for at, name in enumerate(names)])
    if kinds.is_nested(kind) and hasattr(cell, "values"):
        return [_python_value(item) for item in cell.values]  # noqa: PD011
    if kinds.is_dictionary(kind):
        return _python_value(cell.value)
    return _text_without_python(cell)


def _text_without_python(cell: Any) -> str:
    """Return the text of an Arrow cell beyond the limits of Python, such as a time of the year 10000."""
    kind = cell.type
    if kinds.is_timestamp(kind):
        return str(np.datetime64(cell.value, kind.unit)) + ("" if kind.tz is None else "Z")
    if kinds.is_date(kind):
        return str(np.datetime64(cell.value, "D" if kinds.is_date32(kind) else "ms").astype("datetime64[D]"))
    if kinds.is_duration(kind):
        return str(np.timedelta64(cell.value, kind.unit))
    return cell.cast(pa.string()).as_py()


def _mapping(pairs: list[tuple[Any, Any]]) -> dict[Any, Any] | list[tuple[Any, Any]]:
    try:
        return dict(pairs) if len(dict(pairs)) == len(pairs) else pairs
    except TypeError:  # a key that is an object or a list
        return pairs


def _time_of(nanoseconds: int) -> time | str:
    microseconds, rest = divmod(nanoseconds, 1000)
    found = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).time()
    return f"{found.isoformat('microseconds')}{rest:03}" if rest else found


def _with_shortest_floats(array: Any) -> Any:
    """Return the array with 32-bit floats as the 64-bit floats that have the shortest text."""
    texts = _replaced(array.type, kinds.is_float32, pa.string())
    if texts == array.type:
        return array
    return array.cast(texts).cast(_replaced(array.type, kinds.is_float32, pa.float64()))


def _replaced(kind: Any, is_replaced: Callable[[Any], bool], replacement: Any) -> Any:
    if is_replaced(kind):
        return replacement
    return _with_inner(kind, lambda inner: _replaced(inner, is_replaced, replacement))


def _exact_cells(cells: list[Any], kind: Any) -> list[Any]:
    """Return the cells of a column of this type with the values that Arrow or its storage type changes."""
    is_changed = _replaced(kind, _is_changed, pa.null()) != kind
    return [_exact(cell, kind) for cell in cells] if is_changed else cells


def _is_changed(kind: Any) -> bool:
    return kinds.is_float16(kind) or kind in (pa.uuid(), pa.bool8())


def _exact(cell: Any, kind: Any) -> Any:
    """Return a cell with UUIDs, booleans, and for 16-bit floats the floats that have the shortest text."""
    if cell is None:
        return None
    if _is_changed(kind):
        return _exact_leaf(cell, kind)
    if isinstance(cell, (dict, list)) and kinds.is_struct(kind):
        # Pairs if a field occurs twice.
        pairs = list(cell.items() if isinstance(cell, dict) else cell)
        exact = [(name, _exact(item, field.type)) for (name, item), field in zip(pairs, kind, strict=True)]
        return dict(exact) if isinstance(cell, dict) else exact
    if isinstance(cell, dict):
        return {_exact(key, kind.key_type): _exact(item, kind.item_type) for key, item in cell.items()}
    if isinstance(cell, list) and kinds.is_map(kind):
        return [(_exact(key, kind.key_type), _exact(item, kind.item_type)) for key, item in cell]
    return [_exact(item, kind.value_type) for item in cell] if isinstance(cell, list) else cell


def _exact_leaf(cell: Any, kind: Any) -> Any:
    if kinds.is_float16(kind):
        return float(str(np.float16(cell)))
    if kind == pa.bool8():
        return bool(cell)
    return cell if isinstance(cell, uuid.UUID) else uuid.UUID(bytes=cell)


def _join_parts(parts: list[Any]) -> Any:
    """Return the parts of a column as one; a part with nulls only takes the type of the others."""
    types = {part.type for part in parts if part.null_count < len(part)} or {parts[0].type}
    null_type = pa.null() if len(types) > 1 else next(iter(types))
    typed = [
        part if part.null_count < len(part) or part.type == null_type else pa.nulls(len(part), null_type)
        for part in parts
    ]
    try:
        tables = [pa.table([part], names=[""]) for part in typed]
        return pa.concat_tables(tables, promote_options="permissive").column(0)
    except pa.ArrowException:
        texts = (_text(value) for part in parts for value in _pylist(part))
        return pa.array(texts, type=pa.string())


def _has_structs(arrow_type: Any) -> bool:
    # Parquet has no struct without fields, and Arrow would add every key to every object.
    if kinds.is_list(arrow_type) or kinds.is_large_list(arrow_type):
        return _has_structs(arrow_type.value_type)
    return kinds.is_struct(arrow_type) or kinds.is_null(arrow_type)


def _is_binary(kind: Any) -> bool:
    if kinds.is_dictionary(kind):
        return _is_binary(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return kind != pa.uuid() and _is_binary(kind.storage_type)
    tests = (kinds.is_binary, kinds.is_large_binary, kinds.is_fixed_size_binary, kinds.is_binary_view)
    inner = kind.num_fields if kinds.is_nested(kind) else 0
    return any(test(kind) for test in tests) or any(_is_binary(kind.field(at).type) for at in range(inner))


def _has_empty_struct(kind: Any) -> bool:
    if kinds.is_struct(kind) and not kind.num_fields:
        return True
    inner = kind.num_fields if kinds.is_nested(kind) else 0
    return any(_has_empty_struct(kind.field(at).type) for at in range(inner))


def _text(value: Any) -> str | None:
    """Return the text that the value has in prompts, without lone surrogates; None for null."""
    text = cell_text(value)
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()
