"""Types of values by formats: what a table gives as prompt, id, label and OUTPUT, and in a second run."""

# pandas and pyarrow have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opencode_tasks.errors import InputError
from opencode_tasks.frames.arrow_frame import arrow_table, frame_of
from opencode_tasks.frames.columns import output_columns
from opencode_tasks.frames.given_frames import taken
from opencode_tasks.frames.io import Output, read_input
from opencode_tasks.frames.output_frame import output_frame
from opencode_tasks.frames.validate import check_frame, fault_lines

BERLIN = pa.timestamp("us", "Europe/Berlin")
TIME = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC)
BIG = 2**53 + 1


@dataclass(frozen=True)
class Kind:
    """A type with two values and a null between them, and their texts; None if a value has no text."""

    type: Any
    cells: tuple[Any, Any]
    texts: tuple[str, str] | None


KINDS = {
    "text": Kind(pa.string(), ("=1+1", " ü,\"'\n"), ("=1+1", " ü,\"'\n")),
    "large text": Kind(pa.large_string(), ("007", "NA"), ("007", "NA")),
    "text view": Kind(pa.string_view(), ("a", "b"), ("a", "b")),
    "dictionary": Kind(pa.dictionary(pa.int8(), pa.string()), ("red", "blue"), ("red", "blue")),
    "int64": Kind(pa.int64(), (BIG, BIG + 1), (str(BIG), str(BIG + 1))),
    "small int": Kind(pa.int8(), (7, -1), ("7", "-1")),
    "uint64": Kind(pa.uint64(), (2**64 - 1, 0), (str(2**64 - 1), "0")),
    "float": Kind(pa.float64(), (7.0, 0.1), ("7", "0.1")),
    "float with 17 digits": Kind(pa.float64(), (0.1 + 0.2, -5e-324), ("0.30000000000000004", "-5e-324")),
    "large float": Kind(pa.float64(), (1e300, -2.5), ("1e+300", "-2.5")),
    "float32": Kind(pa.float32(), (0.1, 3.0), ("0.1", "3")),
    "float16": Kind(pa.float16(), (0.1, 3.0), ("0.1", "3")),
    "map of float16": Kind(
        pa.map_(pa.string(), pa.float16()),
        ([("a", 0.1)], [("a", 0.5), ("a", 1)]),
        ('{"a": 0.1}', '[["a", 0.5], ["a", 1]]'),
    ),
    "boolean": Kind(pa.bool_(), (True, False), ("True", "False")),
    "decimal": Kind(pa.decimal128(20, 2), (Decimal("1.10"), Decimal(7)), ("1.10", "7.00")),
    "large decimal": Kind(
        pa.decimal256(60, 3), (Decimal(10) ** 50, Decimal("-0.001")), ("1" + "0" * 50 + ".000", "-0.001")
    ),
    "date": Kind(pa.date32(), (dt.date(2026, 1, 2), dt.date(1969, 7, 20)), ("2026-01-02", "1969-07-20")),
    "time": Kind(pa.time64("us"), (dt.time(1, 2, 3), dt.time(0, 0, 0, 5)), ("01:02:03", "00:00:00.000005")),
    "time of day in ns": Kind(pa.time64("ns"), (3_000_000_001, 0), ("00:00:03.000000001", "00:00:00")),
    "timestamp": Kind(
        pa.timestamp("us"),
        (dt.datetime(2026, 1, 2, 3, 4, 5), dt.datetime(2026, 1, 2)),  # noqa: DTZ001
        ("2026-01-02T03:04:05", "2026-01-02T00:00:00"),
    ),
    "timestamp in ns": Kind(
        pa.timestamp("ns"), (10**18 + 1, 10**18), ("2001-09-09T01:46:40.000000001", "2001-09-09T01:46:40")
    ),
    "timestamp with zone": Kind(
        BERLIN,
        (TIME, TIME + dt.timedelta(days=200)),
        ("2026-01-02T03:04:05.678000Z", "2026-07-21T03:04:05.678000Z"),
    ),
    "duration": Kind(
        pa.duration("us"),
        (dt.timedelta(days=1, seconds=5), dt.timedelta(seconds=-90)),
        ("P1DT5S", "-PT1M30S"),
    ),
    "list": Kind(pa.list_(pa.int64()), ([1, BIG], []), (f"[1, {BIG}]", "[]")),
    "list of floats": Kind(pa.list_(pa.float32()), ([0.1, 7.0], [None]), ("[0.1, 7]", "[null]")),
    "list of times in ns": Kind(
        pa.list_(pa.timestamp("ns")), ([10**18 + 1], [None]), ('["2001-09-09T01:46:40.000000001"]', "[null]")
    ),
    "list of durations": Kind(
        pa.list_(pa.duration("ns")), ([5_000_000_001], []), ('["PT5.000000001S"]', "[]")
    ),
    "struct of float16": Kind(
        pa.struct([("a", pa.list_(pa.float16()))]),
        ({"a": [0.1, None]}, {"a": None}),
        ('{"a": [0.1, null]}', '{"a": null}'),
    ),
    "list of text": Kind(pa.large_list(pa.string_view()), (["é"], ["a", None]), ('["é"]', '["a", null]')),
    "fixed list": Kind(pa.list_(pa.int8(), 2), ([1, 2], [3, 4]), ("[1, 2]", "[3, 4]")),
    "struct": Kind(
        pa.struct([("a", pa.int64()), ("t", BERLIN)]),
        ({"a": 1, "t": TIME}, {"a": None, "t": None}),
        ('{"a": 1, "t": "2026-01-02T03:04:05.678000Z"}', '{"a": null, "t": null}'),
    ),
    "chat": Kind(
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        ([{"role": "user", "content": "hi"}], []),
        ('[{"role": "user", "content": "hi"}]', "[]"),
    ),
    "map": Kind(pa.map_(pa.string(), pa.int64()), ([("a", 1)], []), ('{"a": 1}', "{}")),
    "map with a key twice": Kind(
        pa.map_(pa.string(), pa.int64()),
        ([("a", 1), ("a", 2)], [("b", 3)]),
        ('[["a", 1], ["a", 2]]', '{"b": 3}'),
    ),
    "bytes": Kind(pa.binary(), (b"\x89PNG\0", b""), None),
    "fixed bytes": Kind(pa.binary(2), (b"ab", b"\0\0"), None),
    "bytes in a struct": Kind(
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ({"bytes": b"\x89", "path": "a.png"}, {"bytes": None, "path": None}),
        None,
    ),
    "bytes in a list": Kind(pa.list_(pa.large_binary()), ([b"\x89"], []), None),
    "uuid": Kind(
        pa.uuid(),
        (b"0" * 16, b"1" * 16),
        ("30303030-3030-3030-3030-303030303030", "31313131-3131-3131-3131-313131313131"),
    ),
}
BYTES = [name for name, kind in KINDS.items() if kind.texts is None]
TEXTS = [name for name in KINDS if name not in BYTES]
SUFFIXES = ("csv", "tsv", "jsonl", "json", "parquet", "arrow", "feather", "xlsx", "csv.gz", "jsonl.zst")


def table_of(kind: Kind) -> pa.Table:
    first, second = kind.cells
    if isinstance(kind.type, pa.BaseExtensionType):
        values = pa.ExtensionArray.from_storage(
            kind.type, pa.array([first, None, second], kind.type.storage_type)
        )
    else:
        values = pa.array([first, None, second], kind.type)
    return pa.table({"id": ["1", "2", "3"], "x": values, "note": [None, None, "n"]})


def prompts(frame: pd.DataFrame) -> list[str]:
    checked = check_frame(frame, prompt_column="x", id_column="id", labels=["x"])
    assert checked.faults == []
    assert [row.labels.get("x", "") for row in checked.rows] == [row.prompt for row in checked.rows]
    return [row.prompt for row in checked.rows]


def inputs_of(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(frame[["id", "x", "note"]])


def written(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Write the OUTPUT of a run over a frame, and read it again."""
    done = output_frame(frame, [{"response": "=2", "status": "completed"}] * len(frame), output_columns(None))
    done.attrs = frame.attrs
    Output(name=str(path)).write([done.iloc[:2], done.iloc[2:]], "run")
    return read_input(path)


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_of_a_value_is_the_same_in_prompts_templates_ids_and_labels(name: str) -> None:
    kind = KINDS[name]
    assert kind.texts is not None
    first, second = kind.texts
    frame = frame_of(table_of(kind))
    assert prompts(frame) == [first, "", second]
    template = [row.prompt for row in check_frame(frame, template="<{x}>").rows]
    assert template == [f"<{first}>", "", f"<{second}>"]
    if not first.startswith(("[", "{")):
        ids = [row.row_id for row in check_frame(frame.iloc[[0, 2]], prompt_column="id", id_column="x").rows]
        assert ids == [first, second]


# pandas has no column for these without Arrow: it changes the values, or cannot hold them.
LOSSY_IN_PANDAS = (
    "int64",
    "uint64",
    "time of day in ns",
    "list of text",
    "map",
    "map with a key twice",
    "map of float16",
)


@pytest.mark.parametrize("dtypes", [pd.ArrowDtype, None])
@pytest.mark.parametrize("name", TEXTS)
def test_a_pandas_frame_has_the_prompts_of_its_arrow_table(name: str, dtypes: Any) -> None:
    if dtypes is not None or name not in LOSSY_IN_PANDAS:
        table = table_of(KINDS[name])
        assert prompts(table.to_pandas(types_mapper=dtypes)) == prompts(frame_of(table))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.datetime64("2001-09-09T01:46:40.000000001"), "2001-09-09T01:46:40.000000001"),
        (np.datetime64("2001-09-09T01:46:40", "ns"), "2001-09-09T01:46:40"),
        (np.datetime64("2026-01-02"), "2026-01-02"),
        (np.datetime64(10**12, "s"), "33658-09-27T01:46:40"),
        (np.timedelta64(-90 * 10**9, "ns"), "-PT1M30S"),
        (np.timedelta64(90, "m"), "PT1H30M"),
        (
            [np.datetime64("NaT", "s"), np.timedelta64("NaT", "s"), np.float32("nan"), Decimal("NaN")],
            "[null, null, null, null]",
        ),
        (pd.Series([1.5, None]), "[1.5, null]"),
        (pd.array([1, None], "Int64"), "[1, null]"),
        ({"y", "x", "w"}, '["w", "x", "y"]'),
        ([frozenset({10, 2, None})], "[[10, 2, null]]"),
        ({"a": np.array([10**9], "timedelta64[ns]"), "b": {np.float16(0.1)}}, '{"a": ["PT1S"], "b": [0.1]}'),
    ],
)
def test_the_text_of_numpy_values_in_cells(value: Any, text: str) -> None:
    frame = pd.DataFrame({"id": ["1", "2"], "x": pd.Series([value, "other"], dtype=object)})
    assert prompts(frame) == [text, "other"]


def test_a_column_that_arrow_does_not_know_is_named() -> None:
    frame = pl.DataFrame({"prompt": ["a"], "large": pl.Series([2**100], dtype=pl.Int128)})
    with pytest.raises(InputError, match="frame: column 'large': "):
        taken(frame)


def test_a_column_of_python_objects_of_polars_is_refused() -> None:
    objects = pl.Series([{"k": 1}, None], dtype=pl.Object)
    fault = "frame: the column 'o' holds Python objects, which have no Arrow type"
    for frame in (pl.DataFrame({"prompt": ["a", "b"], "o": objects}), pl.DataFrame({"o": objects})):
        with pytest.raises(InputError, match=fault):
            taken(frame)
    named = pl.DataFrame(
        {
            "Object": ["a"],
            "kind": pl.Series(["Object"], dtype=pl.Enum(["Object"])),
            "x": [{"Object": "a", "is Object": 1}],
        }
    )
    assert prompts(taken(named.with_columns(id=pl.lit("1")))) == ['{"Object": "a", "is Object": 1}']


def test_values_of_types_that_arrow_does_not_know_are_bytes() -> None:
    kind = pa.opaque(pa.binary(), "box2d", "postgis")
    cells = pa.ExtensionArray.from_storage(kind, pa.array([b"\x89", None]))
    for column in (cells, pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), cells)):
        (fault,) = check_frame(frame_of(pa.table({"x": column})), prompt_column="x").faults
        assert "holds bytes" in fault


@pytest.mark.parametrize("missing", [Decimal("NaN"), np.datetime64("NaT", "s"), np.float32("nan"), pd.NA])
def test_missing_values_of_any_library_are_missing(missing: Any) -> None:
    frame = pd.DataFrame({"x": pd.Series([missing, "other"], dtype=object)})
    assert check_frame(frame, prompt_column="x").row_faults == {0: "the prompt is null"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", TEXTS)
def test_a_second_run_has_the_same_prompts_and_cells(name: str, suffix: str, tmp_path: Path) -> None:
    frame = frame_of(table_of(KINDS[name]))
    first = written(frame, tmp_path / f"first.{suffix}")
    assert first["response"].tolist() == ["=2"] * 3
    inputs = inputs_of(first)
    assert prompts(inputs) == prompts(frame)
    second = written(inputs, tmp_path / f"second.{suffix}")
    assert arrow_table([inputs_of(second)]).to_pylist() == arrow_table([inputs]).to_pylist()
    assert prompts(inputs_of(second)) == prompts(frame)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("name", KINDS)
def test_columns_keep_type_and_value(name: str, suffix: str, tmp_path: Path) -> None:
    source = tmp_path / f"in.{suffix}"
    table = table_of(KINDS[name])
    if suffix == "parquet":
        pq.write_table(table, source)
        table = pq.read_table(source)
    else:
        with pa.OSFile(str(source), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    written(read_input(source), tmp_path / f"out.{suffix}")
    out = (
        pq.read_table(tmp_path / "out.parquet")
        if suffix == "parquet"
        else pa.ipc.open_file(tmp_path / "out.arrow").read_all()
    )
    assert out.select(["id", "x", "note"]).schema.remove_metadata() == table.schema.remove_metadata()
    assert out.select(["id", "x", "note"]).to_pylist() == table.to_pylist()


@pytest.mark.parametrize("name", BYTES)
def test_bytes_are_refused_where_text_is_needed(name: str) -> None:
    frame = frame_of(table_of(KINDS[name]))
    for options in ({"prompt_column": "x"}, {"template": "{x}"}, {"labels": ["x"], "prompt_column": "id"}):
        (fault,) = check_frame(frame, **options).faults  # pyright: ignore[reportArgumentType]
        assert "INPUT column 'x'" in fault
        assert "bytes" in fault
    assert "bytes" in check_frame(frame, prompt_column="id", id_column="x").faults[0]
    objects = pd.DataFrame({"prompt": ["a"], "x": pd.Series([{"deep": [b"\x89"]}], dtype=object)})
    assert "bytes" in check_frame(objects, labels=["x"]).faults[0]
    assert check_frame(objects).faults == []


@pytest.mark.parametrize(
    "value", [object(), lambda: None, pd.DataFrame({"a": [1]}), pl.Series([1]), pa.array([1])]
)
def test_objects_without_a_text_of_their_own_are_refused(value: Any) -> None:
    kind = f"objects of the class {type(value).__name__}"
    for cell in (value, [value], {"deep": (value,)}):
        frame = pd.DataFrame({"x": pd.Series(["a", cell], dtype=object)})
        (fault,) = check_frame(frame, prompt_column="x").faults
        assert (
            fault
            == f"INPUT column 'x' (--prompt-column) holds {kind}, which have no text; use another column"
        )


def test_bytes_are_base64_in_text_formats(tmp_path: Path) -> None:
    frame = frame_of(table_of(KINDS["bytes in a struct"]))
    assert written(frame, tmp_path / "o.csv")["x"].tolist()[0] == '{"bytes": "iQ==", "path": "a.png"}'
    written(frame, tmp_path / "o.jsonl")
    line = (tmp_path / "o.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["x"] == {"bytes": "iQ==", "path": "a.png"}


def test_a_stored_index_is_columns_if_it_has_names(tmp_path: Path) -> None:
    frame = pd.DataFrame({"prompt": ["a", "b"]})
    for index, columns in (
        (pd.Index([5, 6], name="id"), ["prompt", "id"]),
        (pd.Index([5, 6]), ["prompt"]),
        (pd.MultiIndex.from_tuples([(1, "x"), (2, "y")], names=["a", None]), ["prompt", "a"]),
        (pd.RangeIndex(2), ["prompt"]),
        (pd.RangeIndex(5, 9, 2, name="id"), ["prompt", "id"]),
    ):
        frame.set_index(index).to_parquet(tmp_path / "in.parquet")
        assert list(read_input(tmp_path / "in.parquet").columns) == columns
    assert list(read_input(tmp_path / "in.parquet", limit=1)["id"]) == [5]
    assert list(read_input(tmp_path / "in.parquet")["id"]) == [5, 7]


def test_a_column_without_values_keeps_its_type(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            ("empty", pa.float32()),
            ("nothing", pa.null()),
            ("blob", pa.binary()),
            ("times", pa.list_(BERLIN)),
        ]
    )
    rows = [
        {"id": number, "empty": None, "nothing": None, "blob": None, "times": None} for number in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "in.parquet")
    written(read_input(tmp_path / "in.parquet"), tmp_path / "out.parquet")
    out = pq.read_schema(tmp_path / "out.parquet")
    assert [out.field(name) for name in schema.names] == list(pq.read_schema(tmp_path / "in.parquet"))


def test_a_parquet_file_of_polars_is_kept(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"prompt": ["a", None], "tags": [["x"], []], "kind": pl.Series(["u", "v"], dtype=pl.Categorical)}
    )
    frame.write_parquet(tmp_path / "in.parquet")
    written(read_input(tmp_path / "in.parquet"), tmp_path / "out.parquet")
    assert pl.read_parquet(tmp_path / "out.parquet").select(frame.columns).equals(frame)


FAR = 10**12
REPEATED = pa.StructArray.from_arrays(
    [pa.array([1.5, 0.1], pa.float32()), pa.array([2, 3]), pa.array([0.1, None], pa.float16())],
    names=["a", "a", "b"],
)
UUIDS = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, b"1" * 16], pa.binary(16)))
FLAGS = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8()))
LOGICAL = {
    "boolean of one byte": (FLAGS, ["True", "False"]),
    "list of UUIDs": (
        pa.ListArray.from_arrays(pa.array([0, 2, 2], pa.int32()), UUIDS),
        ['["30303030-3030-3030-3030-303030303030", "31313131-3131-3131-3131-313131313131"]', "[]"],
    ),
    "struct": (
        pa.StructArray.from_arrays(
            [UUIDS, FLAGS, pa.array([0.1, None], pa.float16())], names=["u", "b", "f"]
        ),
        [
            '{"u": "30303030-3030-3030-3030-303030303030", "b": true, "f": 0.1}',
            '{"u": "31313131-3131-3131-3131-313131313131", "b": false, "f": null}',
        ],
    ),
    "map": (
        pa.MapArray.from_arrays(pa.array([0, 1, 2], pa.int32()), UUIDS, FLAGS),
        ['{"30303030-3030-3030-3030-303030303030": true}', '{"31313131-3131-3131-3131-313131313131": false}'],
    ),
}


@pytest.mark.parametrize("name", LOGICAL)
def test_uuids_and_booleans_are_values_at_any_depth(name: str, tmp_path: Path) -> None:
    cells, texts = LOGICAL[name]
    table = pa.table({"id": ["1", "2"], "x": cells, "note": ["", ""]})
    frame = frame_of(table)
    assert prompts(frame) == texts
    assert prompts(table.to_pandas(types_mapper=pd.ArrowDtype)) == texts
    for suffix in ("csv", "jsonl", "xlsx", "parquet", "arrow"):
        assert prompts(inputs_of(written(frame, tmp_path / f"o.{suffix}"))) == texts
    out = pa.ipc.open_file(tmp_path / "o.arrow").read_all()
    assert out.schema.field("x").type == cells.type


CELLS_WITHOUT_A_PYTHON_VALUE = {
    "struct with a field twice": (
        REPEATED,
        ['[["a", 1.5], ["a", 2], ["b", 0.1]]', '[["a", 0.1], ["a", 3], ["b", null]]'],
    ),
    "list of structs with a field twice": (
        pa.ListArray.from_arrays(pa.array([0, 1, 1], pa.int32()), REPEATED),
        ['[[["a", 1.5], ["a", 2], ["b", 0.1]]]', "[]"],
    ),
    "far time in a struct": (
        pa.array(
            [{"t": FAR, "n": 1}, {"t": 0, "n": None}], pa.struct([("t", pa.timestamp("s")), ("n", pa.int8())])
        ),
        ['{"t": "33658-09-27T01:46:40", "n": 1}', '{"t": "1970-01-01T00:00:00", "n": null}'],
    ),
    "far times": (
        pa.array([FAR, -FAR], pa.timestamp("s", "UTC")),
        ["33658-09-27T01:46:40Z", "-29719-04-05T22:13:20Z"],
    ),
    "far dates": (pa.array([10**7, -(10**7)], pa.date32()), ["29349-01-26", "-25410-12-06"]),
    "far dates in ms": (pa.array([86_400_000 * 10**7, 0]).cast(pa.date64()), ["29349-01-26", "1970-01-01"]),
    "far times in dictionaries": (
        pa.StructArray.from_arrays([pa.array([FAR, 0], pa.timestamp("s")).dictionary_encode()], names=["f"]),
        ['{"f": "33658-09-27T01:46:40"}', '{"f": "1970-01-01T00:00:00"}'],
    ),
    "long durations": (
        pa.array([[2**62], [1]], pa.list_(pa.duration("s"))),
        [f'["{2**62} seconds"]', '["PT1S"]'],
    ),
    "times of an unknown zone": (
        pa.array([1, 0], pa.timestamp("s", "Mars/Phobos")),
        ["1970-01-01T00:00:01Z", "1970-01-01T00:00:00Z"],
    ),
    "far times in a list": (
        pa.array([[FAR, 0, None], []], pa.list_(pa.timestamp("s"))),
        ['["33658-09-27T01:46:40", "1970-01-01T00:00:00", null]', "[]"],
    ),
    "far times in a map": (
        pa.array([[("a", FAR)], [("a", FAR), ("a", None)]], pa.map_(pa.string(), pa.timestamp("s"))),
        ['{"a": "33658-09-27T01:46:40"}', '[["a", "33658-09-27T01:46:40"], ["a", null]]'],
    ),
    "map with objects as keys": (
        pa.array([[({"k": 1}, 2)], []], pa.map_(pa.struct([("k", pa.int8())]), pa.int8())),
        ['[[{"k": 1}, 2]]', "{}"],
    ),
}


@pytest.mark.parametrize("name", CELLS_WITHOUT_A_PYTHON_VALUE)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "xlsx", "arrow"])
def test_cells_without_a_python_value_have_a_text_in_every_part(
    name: str, suffix: str, tmp_path: Path
) -> None:
    cells, texts = CELLS_WITHOUT_A_PYTHON_VALUE[name]
    frame = frame_of(pa.table({"id": ["1", "2"], "x": cells, "note": ["", ""]}))
    assert prompts(frame) == texts
    assert prompts(inputs_of(written(frame, tmp_path / f"o.{suffix}"))) == texts


def test_run_ends_are_read_as_their_values(tmp_path: Path) -> None:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["a", "b"]))
    frame = frame_of(pa.table({"id": ["1", "2", "3"], "x": runs, "note": runs}))
    assert prompts(frame) == ["a", "a", "b"]
    assert prompts(inputs_of(written(frame, tmp_path / "o.parquet"))) == ["a", "a", "b"]


def test_a_struct_without_fields_is_text_in_parquet(tmp_path: Path) -> None:
    frame = frame_of(pa.table({"x": pa.array([{}, None], pa.struct([]))}))
    assert written(frame, tmp_path / "o.parquet")["x"].tolist()[0] == "{}"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([{"k": 1.0, "n": None}, {"k": 2.5, "n": None}], ['{"k": 1, "n": null}', '{"k": 2.5, "n": null}']),
        ([[{"k": 1e300}], [{"k": -0.0}]], ['[{"k": 1e+300}]', '[{"k": 0}]']),
        ([True, "x"], ["True", "x"]),
        ([1.0, 2**80], ["1", str(2**80)]),
        ([{}, {"a": True}], ["{}", '{"a": true}']),
    ],
)
def test_objects_of_python_have_the_same_prompts_after_every_format(
    values: list[Any], texts: list[str], suffix: str, tmp_path: Path
) -> None:
    cells = pd.Series([*values, None], dtype=object)
    frame = pd.DataFrame({"id": ["1", "2", "3"], "x": cells, "note": ["", "", "n"]})
    assert prompts(frame) == [*texts, ""]
    assert prompts(inputs_of(written(frame, tmp_path / f"o.{suffix}"))) == [*texts, ""]


JSON_COLUMNS: dict[str, tuple[list[Any], list[str]]] = {
    "mixed": ([1, "one", [1.0], {"a": None}, True], ["1", "one", "[1]", '{"a": null}', "True"]),
    "numbers": ([1, 2.5, 2**53, 7.0, -0.5], ["1", "2.5", str(2**53), "7", "-0.5"]),
    "large": ([2**80, 1, BIG, -1, 0], [str(2**80), "1", str(BIG), "-1", "0"]),
    "exact": ([BIG, 0.5, 1, 2, 3], [str(BIG), "0.5", "1", "2", "3"]),
    "half": (["\ud800 half", "b", "c", "d", "e"], ["", "b", "c", "d", "e"]),
    "nested": (
        [[1] * 2000, [], {"b": 1, "a": 2}, {}, [[]]],
        [str([1] * 2000), "[]", '{"b": 1, "a": 2}', "{}", "[[]]"],
    ),
}


@pytest.mark.parametrize("name", JSON_COLUMNS)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_json_values_of_any_mixture_are_kept(name: str, suffix: str, tmp_path: Path) -> None:
    values, texts = JSON_COLUMNS[name]
    rows = [{"id": str(number), "x": value} for number, value in enumerate(values)]
    lines = [json.dumps(row) for row in rows]
    content = "\n".join(lines) if suffix == "jsonl" else f" [{','.join(lines)}]\n"
    (tmp_path / f"in.{suffix}").write_text(content)
    frame = read_input(tmp_path / f"in.{suffix}")
    assert [row.prompt for row in check_frame(frame, prompt_column="x").rows] == texts
    written(frame, tmp_path / f"out.{suffix}")
    text = (tmp_path / f"out.{suffix}").read_text(encoding="utf-8")
    again = [json.loads(line) for line in text.splitlines()] if suffix == "jsonl" else json.loads(text)
    assert [row["x"] for row in again] == values
    assert fault_lines(check_frame(read_input(tmp_path / f"out.{suffix}"), prompt_column="id")) != []


def test_columns_of_later_batches_are_joined(tmp_path: Path) -> None:
    rows = [{"x": 1} for _ in range(10_000)] + [{"x": 2.5, "late": "a"}, {"x": None}]
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    frame = read_input(tmp_path / "in.jsonl")
    assert list(frame["late"].isna()).count(True) == len(rows) - 1
    assert check_frame(frame.iloc[9_999:10_001], prompt_column="x").rows.frame["x"].tolist() == [1.0, 2.5]
    rows[-1] = {"x": "text"}
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    frame = read_input(tmp_path / "in.jsonl").iloc[9_999:]
    assert [row.prompt for row in check_frame(frame, prompt_column="x").rows] == ["1", "2.5", "text"]
