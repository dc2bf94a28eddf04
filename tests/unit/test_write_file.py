# pandas, pyarrow and fsspec have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.frames import formats
from opencode_tasks.frames.columns import output_columns
from opencode_tasks.frames.content import InputFile
from opencode_tasks.frames.formats import FileFormat
from opencode_tasks.frames.io import Output, read_input
from opencode_tasks.frames.io import read_input as read_frame
from opencode_tasks.frames.output_frame import output_frame
from opencode_tasks.frames.write_file import file_faults, write_frames

TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"tags": {"type": "array"}, "more": {"type": "object"}, "n": {"type": "integer"}},
}


def output(*outcomes: dict[str, Any]) -> pd.DataFrame:
    frame = pd.DataFrame({"prompt": ["é=1"] * len(outcomes)})
    return output_frame(frame, outcomes, output_columns(SCHEMA))


DONE: dict[str, Any] = {
    "response": "=1+1",
    "structured": {"tags": ["a", "é"], "more": {"k": [1, None]}, "n": 3},
    "input_tokens": 5,
    "cost_pico": 100_000,
    "reused": True,
    "waits_until": TIME,
}


def write_frame(frame: pd.DataFrame, path_or_url: str | Path) -> None:
    write_frames([frame], path_or_url)


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_output(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    write_frame(output(DONE, {"structured": None}), path)
    done, empty = csv_rows(path)
    assert done["prompt"] == "é=1"
    assert done["response"] == "=1+1"
    assert json.loads(done["tags"]) == ["a", "é"]
    assert json.loads(done["more"]) == {"k": [1, None]}
    assert (done["n"], done["input_tokens"], done["cost_usd"]) == ("3", "5", "1e-07")
    assert (done["waits_until"], done["reused"]) == ("2026-01-02T03:04:05Z", "True")
    assert {empty[name] for name in empty if name != "prompt"} == {""}


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+cmd", "'+1+cmd"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("-5", "-5"),
        ("+1.5", "+1.5"),
        ("-1,234.50", "-1,234.50"),
        ("-1e-5", "-1e-5"),
        ("-", "'-"),
        ("a=1", "a=1"),
        ("007", "007"),
    ],
)
def test_formulas_are_escaped_for_people_only(tmp_path: Path, cell: str, written: str) -> None:
    path = tmp_path / "o.csv"
    frame = pd.DataFrame({"a": [cell], "=h": ["x"]})
    Output(name=str(path), protects_cells=True).write([frame], "run")
    assert csv_rows(path) == [{"a": written, "'=h": "x"}]
    Output(name=str(path)).write([frame], "run")
    assert csv_rows(path) == [{"a": cell, "=h": "x"}]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_csv_is_read_back(cells: list[str]) -> None:
    write_frame(pd.DataFrame({"p": pd.Series(cells, dtype=object)}), "memory://round/o.csv")
    assert read_frame("memory://round/o.csv")["p"].tolist() == cells


def test_jsonl_output(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    write_frame(output(DONE, {"structured": None}), path)
    text = path.read_text(encoding="utf-8")
    done, empty = (json.loads(line) for line in text.splitlines())
    assert '"é=1"' in text
    assert done["response"] == "=1+1"
    assert (done["tags"], done["more"]) == (["a", "é"], {"k": [1, None]})
    assert (done["waits_until"], done["input_tokens"], done["reused"]) == ("2026-01-02T03:04:05Z", 5, True)
    assert {name: value for name, value in empty.items() if value is not None} == {"prompt": "é=1"}


def test_jsonl_of_unusual_values(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": pd.Series([2**80, float("inf"), date(2026, 1, 1), {"t": TIME}, "\ud800"])})
    write_frame(frame, tmp_path / "o.ndjson")
    lines = (tmp_path / "o.ndjson").read_text(encoding="utf-8").splitlines()
    values = [json.loads(line)["a"] for line in lines]
    assert values == [2**80, "inf", "2026-01-01", {"t": "2026-01-02T03:04:05Z"}, "\ud800"]


@pytest.mark.parametrize("outcomes", [[], [{"structured": None}], [DONE, {}]])
def test_parquet_types_do_not_depend_on_rows(tmp_path: Path, outcomes: list[dict[str, Any]]) -> None:
    path = tmp_path / "o.parquet"
    write_frame(output(*outcomes), path)
    kinds = {field.name: str(field.type) for field in pq.read_schema(path)}
    assert kinds["response"] in ("string", "large_string")
    assert (kinds["input_tokens"], kinds["n"], kinds["reused"]) == ("int64", "int64", "bool")
    assert (kinds["cost_usd"], kinds["waits_until"]) == ("double", "timestamp[us, tz=UTC]")
    assert kinds["more"] == "string"
    assert len(read_frame(path)) == len(outcomes)


def test_parquet_stores_values_without_a_type_as_text(tmp_path: Path) -> None:
    path = tmp_path / "o.parquet"
    values = {
        "mixed": [1, "a"],
        "big": [2**80, 1],
        "empty": [{}, {}],
        "half": ["\ud800", "b"],
        "l": [[1], []],
    }
    write_frame(pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in values.items()}), path)
    back = read_frame(path)
    assert back["mixed"].tolist() == ["1", "a"]
    assert back["big"].tolist() == [str(2**80), "1"]
    assert back["empty"].tolist() == ["{}", "{}"]
    assert back["half"].tolist() == ["\\ud800", "b"]
    assert [list(cell) for cell in back["l"].tolist()] == [[1], []]


def test_csv_is_written_to_gzip_at_a_url() -> None:
    write_frame(pd.DataFrame({"a": ["x"]}), "memory://out/o.csv.gz")
    assert gzip.decompress(fsspec.filesystem("memory").cat("/out/o.csv.gz")) == b"a\nx\n"


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text("old")
    path.chmod(0o640)
    with pytest.raises(RuntimeError):
        write_frame(pd.DataFrame({"a": [Unwritable()]}), path)
    assert path.read_text() == "old"
    write_frame(pd.DataFrame({"a": ["new"]}), path)
    assert path.read_text() == "a\nnew\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["o.csv"]


class Unwritable:
    def __str__(self) -> str:
        raise RuntimeError


KILLED = """
import os, signal, sys
from opencode_tasks.frames.write_file import write_records
def lines():
    yield "1"
    print("open", flush=True)
    sys.stdin.readline()
write_records(lines(), sys.argv[1])
"""


def test_a_file_that_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        (tmp_path / ".out.jsonl.mine").touch()
        # Its writer is alive.
        write_frame(output(DONE), path)
        assert len(list(tmp_path.iterdir())) == 3
        writer.kill()
    write_frame(output(DONE), path)
    assert {found.name for found in tmp_path.iterdir()} == {"out.jsonl", ".out.jsonl.mine"}


def test_symbolic_link_is_kept(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    write_frame(pd.DataFrame({"a": ["x"]}), tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "a\nx\n"


def test_faults_of_output_files(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("p\n")
    (tmp_path / "same.csv").hardlink_to(source)
    (tmp_path / "dir.csv").mkdir()

    def faults(name: str) -> list[str]:
        return [fault.partition(": ")[2] for fault in file_faults(name, input_path=source)]

    assert faults(f"{tmp_path}/o.csv") == []
    assert faults("memory://x/o.csv") == []
    assert faults(f"{tmp_path}/o.txt") == [
        (
            "unknown suffix; use .csv, .tsv, .tab, .jsonl, .ndjson, .json, .parquet, .arrow, .feather or "
            ".xlsx (text formats also with .gz or .zst)"
        )
    ]
    assert faults(f"{tmp_path}/none/o.csv") == [f"the folder {tmp_path}/none does not exist"]
    assert faults(f"{tmp_path}/dir.csv") == ["this is a folder; use the name of a file"]
    assert faults(f"{tmp_path}/./in.csv") == ["this is the INPUT file; use another name"]
    assert faults(f"{tmp_path}/same.csv") == ["this is the INPUT file; use another name"]
    assert "nofs" in faults("nofs://x/o.csv")[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dir.csv", "in.csv", "same.csv"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "csv.gz"])
def test_several_frames_are_one_table(tmp_path: Path, suffix: str) -> None:
    cells: dict[str, list[Any]] = {
        "text": ["a", "b", None, "d"],
        "late": [None, None, "x", "y"],
        "number": [1, 2, 3.5, None],
        "mixed": [1, None, "one", [1]],
        "nested": [{"a": 1}, None, {"b": [2]}, {}],
    }
    whole = pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in cells.items()})
    one, many = tmp_path / f"one.{suffix}", tmp_path / f"many.{suffix}"
    write_frame(whole, one)
    write_frames([whole.iloc[:2], whole.iloc[2:3], whole.iloc[3:]], many)
    if suffix == "parquet":
        written = pq.read_table(many)
        assert written.schema == pq.read_table(one).schema
        assert written.column("text").to_pylist() == cells["text"]
        assert written.column("late").to_pylist() == cells["late"]
        assert written.column("number").to_pylist() == [1.0, 2.0, 3.5, None]
        assert written.column("mixed").to_pylist() == ["1", None, "one", "[1]"]
    else:
        assert many.read_bytes() == one.read_bytes()


def test_a_format_is_one_line_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_lines(file: InputFile) -> pd.DataFrame:
        with file.open_text() as text:
            return pd.DataFrame({"line": text.read().splitlines()[: file.limit]})

    def write_lines(frames: Iterable[pd.DataFrame], file: Any) -> None:
        for frame in frames:
            file.write("".join(f"{line}\n" for line in frame["line"]).encode())

    added = FileFormat(name="lines", suffixes=(".txt",), read=read_lines, write=write_lines, is_text=True)
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, added))
    for name in ("a.txt", "a.txt.gz"):
        path = str(tmp_path / name)
        assert Output(name=path).faults("in.csv", ["line"]) == []
        Output(name=path).write([pd.DataFrame({"line": ["x", "y"]}), pd.DataFrame({"line": ["z"]})], "run")
        assert read_input(path, limit=2)["line"].tolist() == ["x", "y"]
    assert gzip.decompress((tmp_path / "a.txt.gz").read_bytes()) == b"x\ny\nz\n"
    assert "or .txt (" in Output(name="a.ods").faults("in.csv", None)[0]
