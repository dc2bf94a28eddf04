# pandas, pyarrow and fsspec have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import gzip
from pathlib import Path

import fsspec
import pandas as pd
import pytest

from opencode_tasks.errors import InputError
from opencode_tasks.frames.arrow_frame import column_cells
from opencode_tasks.frames.io import read_input as read_frame


def write_file(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def records(frame: pd.DataFrame) -> list[dict[str, object]]:
    columns = [column_cells(frame.iloc[:, at]) for at in range(len(frame.columns))]
    return [dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def test_csv_cells_are_text(tmp_path: Path) -> None:
    text = '\ufeffid,a,b\r\n007,NA,1e5\r\n,"x,\n""y""",nan\r\n\r\n true , 1 ,\x00\r\n'
    frame = read_frame(write_file(tmp_path, "a.CSV", text))
    assert records(frame) == [
        {"id": "007", "a": "NA", "b": "1e5"},
        {"id": "", "a": 'x,\n"y"', "b": "nan"},
        {"id": " true ", "a": " 1 ", "b": "\x00"},
    ]


def test_csv_is_read_from_gzip_and_from_a_url(tmp_path: Path) -> None:
    write_file(tmp_path, "a.csv.gz", gzip.compress(b"p\n1\n2\n3\n"))
    assert records(read_frame(f"file://{tmp_path}/a.csv.gz", limit=2)) == [{"p": "1"}, {"p": "2"}]
    fsspec.filesystem("memory").pipe("/in/b.csv", b"p\nx\n")
    assert records(read_frame("memory://in/b.csv")) == [{"p": "x"}]


def test_csv_with_only_a_header_has_no_rows(tmp_path: Path) -> None:
    frame = read_frame(write_file(tmp_path, "a.csv", "p,q\n"))
    assert (list(frame.columns), len(frame)) == (["p", "q"], 0)


def test_csv_cell_can_be_large(tmp_path: Path) -> None:
    assert len(read_frame(write_file(tmp_path, "a.csv", "p\n" + "x" * 300_000)).iloc[0, 0]) == 300_000


def test_jsonl_values_keep_their_types(tmp_path: Path) -> None:
    text = '{"p": "2024-01-01", "n": 123456789012345678901}\n\n{"p": "u\u2028v", "x": {"a": [1, null]}}\n'
    frame = read_frame(write_file(tmp_path, "a.ndjson", text))
    assert records(frame) == [
        {"p": "2024-01-01", "n": 123456789012345678901, "x": None},
        {"p": "u\u2028v", "n": None, "x": {"a": [1, None]}},
    ]
    assert read_frame(tmp_path / "a.ndjson", limit=1).columns.tolist() == ["p", "n"]


def test_parquet_columns_keep_their_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"n": [1, 2], "p": ["a", None]}, index=pd.Index([5, 6])).to_parquet(path)
    frame = read_frame(path, limit=1)
    assert records(frame) == [{"n": 1, "p": "a"}]
    assert frame.index.tolist() == [0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ods", b"x", "unknown suffix; use .csv"),
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"\n\n", "the file is empty"),
        ("a.csv", b"p,q\n1,2\n3\n", "line 3: 1 cells, but the header has 2"),
        ("a.csv", b'p,q\n"1\n2",2\n3,4,5\n', "line 4: 3 cells, but the header has 2"),
        ("a.csv", b'p\n"open\n', "not CSV"),
        ("a.csv", b"p\nok\n\xe9\n", "line 3: not UTF-8"),
        ("a.csv", b"p\nok\n\xe9\n", "name its encoding with --encoding"),
        ("a.csv", "p\nx".encode("utf-16")[:-1], "not utf-16"),
        ("a.csv.gz", b"p\n1\n", "cannot be read"),
        ("a.jsonl", b'{"p": 1}\n{"p"\n', "line 2: not JSON"),
        ("a.jsonl", b'{"p": 1}\n\n[1]\n', "line 3: not a JSON object"),
        ("a.jsonl", b'{"p": ' + b"[" * 200 + b"]" * 200 + b"}", "line 1: nested more than 100 levels deep"),
        ("a.parquet", b"PAR?", "not Parquet"),
    ],
)
def test_unreadable_file_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write_file(tmp_path, name, content)
    with pytest.raises(InputError) as caught:
        read_frame(path)
    (line,) = caught.value.faults
    assert line.startswith(f"INPUT {path}")
    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize("name", ["none.csv", "nofs://x/y.csv", "none/x.parquet"])
def test_missing_file_or_protocol_is_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"INPUT .*(no such file|cannot be read)"):
        read_frame(name if "://" in name else tmp_path / name)
