# pandas, pyarrow and fsspec have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import gzip
import json
import re
import sys
import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import fsspec
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opencode_tasks.errors import InputError
from opencode_tasks.frames import csv_file, excel_file
from opencode_tasks.frames.arrow_frame import column_cells
from opencode_tasks.frames.cells import cell_text
from opencode_tasks.frames.content import is_encoding
from opencode_tasks.frames.csv_file import detect_delimiter
from opencode_tasks.frames.io import Output, read_table
from opencode_tasks.frames.io import read_input as read_frame
from opencode_tasks.frames.validate import check_frame


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


def test_files_of_an_archive_are_read(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("in.csv", "p\n1\n")
        made.writestr("in.jsonl.gz", gzip.compress(b'{"p": "1"}\n'))
    for name in ("in.csv", "in.jsonl.gz"):
        assert records(read_frame(f"zip://{name}::{archive}")) == [{"p": "1"}]
        assert records(read_frame(f"simplecache::zip://{name}::file://{archive}")) == [{"p": "1"}]
    output = Output(name=str(tmp_path / "o.csv"))
    # Old versions of fsspec have words of their own for a file that an archive lacks.
    for name in (f"zip://in.csv::{tmp_path}/none.zip", f"zip://none.csv::{archive}"):
        with pytest.raises(InputError, match=r"no such file|no item named"):
            read_frame(name)
        assert output.faults(name, ["p"]) == []
    (fault,) = Output(name=f"zip://o.csv::{tmp_path}/none/o.zip").faults("in.csv", None)
    assert fault.startswith("OUTPUT zip://o.csv::")


def test_csv_with_only_a_header_has_no_rows(tmp_path: Path) -> None:
    frame = read_frame(write_file(tmp_path, "a.csv", "p,q\n"))
    assert (list(frame.columns), len(frame)) == (["p", "q"], 0)


def test_a_column_can_hold_html(tmp_path: Path) -> None:
    text = "<htmlText>,p\n<html>,<!doctype html>\n"
    assert records(read_frame(write_file(tmp_path, "a.csv", text))) == [
        {"<htmlText>": "<html>", "p": "<!doctype html>"}
    ]


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
        (
            "a.json",
            b'{\n "p": 1\n}',
            "one JSON value in several lines; an array of objects, or one object in",
        ),
        ("a.json", b'{\n "p": 1,\n}', "line 1: not JSON"),
        ("a.json", b'{"p": 1}\n{"p"\n', "line 2: not JSON"),
        ("a.parquet", b"PAR?", "not Parquet"),
        ("a.csv", b"<!DOCTYPE html><html><head><title>Log in", ": a web page, and not a table; a login or"),
        ("a.tsv.gz", gzip.compress(b"\r\n <html lang=en>\n<p>x\n", mtime=0), ": a web page, and not a table"),
        ("a.json", b"<html>", ": a web page, and not a table"),
        ("a.jsonl", "<!doctype html>\n".encode("utf-16"), ": a web page, and not a table"),
        ("a.csv", b'\xef\xbb\xbf<?xml version="1.0"?><Error/>', ": an XML file, and not a table"),
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


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("id,prompt\n1,a;b\n", ","),
        ("id;prompt;x\n1;a,b;3,5\n2;c;4,5\n", ";"),
        ("id;prompt\n1;a, b\n2;bad;row\n3;c\n", ";"),
        ("id\tprompt\n1\ta\n", "\t"),
        ("id|prompt\n1|a\n", "|"),
        ("prompt\nHello, you; there\n", ","),
        ('"a;b",c\n1,2\n', ","),
        ("question|answer format\nno bar here\nnor here\n", ","),
        ("", ","),
    ],
)
def test_the_delimiter_is_detected_by_the_first_rows(text: str, delimiter: str) -> None:
    assert detect_delimiter(text) == delimiter


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.csv", "id,é\n1,x\n".encode("utf-8-sig"), {}),
        ("a.csv", "id,é\r1,x\r".encode("utf-16"), {}),
        ("a.csv", "id;é\n1;x\n".encode("utf-16-le"), {}),
        ("a.csv", "id\té\n1\tx\n".encode("utf-16-be"), {}),
        ("a.csv", "sep=;\r\nid;é\r\n1;x\r\n".encode(), {}),
        ("a.csv", "id|é\n1|x\n".encode("cp1252"), {"encoding": "cp1252"}),
        ("a.csv", "id^é\n1^x\n".encode(), {"delimiter": "^"}),
        ("a.tsv", "id\té\n1\tx\n".encode(), {}),
        ("a.tsv.gz", gzip.compress("id\té\n1\tx\n".encode(), mtime=0), {}),
        ("a.json", '\ufeff [{"id": "1", "é": "x"}] '.encode(), {}),
        ("a.json", '{"id": "1",\t"é": "x"}\n'.encode(), {}),
        ("a.jsonl", '{"id": "1", "é": "x"}\n'.encode("latin-1"), {"encoding": "latin-1"}),
    ],
)
def test_encodings_and_delimiters(tmp_path: Path, name: str, content: bytes, options: dict[str, Any]) -> None:
    table = read_table(str(write_file(tmp_path, name, content)), **options)
    assert records(table.frame) == [{"id": "1", "é": "x"}]


@pytest.mark.parametrize(
    ("name", "is_known"),
    [
        *((name, True) for name in ("utf-8", "UTF8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7")),
        *(
            (name, True)
            for name in ("cp1252", "latin-1", "ascii", "shift_jis", "gb18030", "iso2022_jp", "hz")
        ),
        *((name, True) for name in ("cp037", "big5", "euc_kr", "koi8-r", "mac_roman")),
        *((name, False) for name in ("idna", "punycode", "rot13", "base64", "zlib", "undefined", "x", "")),
    ],
)
def test_an_encoding_is_one_of_text_files(name: str, is_known: bool) -> None:
    assert is_encoding(name) == is_known


def test_bad_rows_can_fail_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_file, "MAX_LINE_CHARS", 100)
    text = f'id,prompt\n1,a\n2\n1,b,c\n"x"y,d\n,{"e" * 101}\n3,f\n'
    path = str(write_file(tmp_path, "a.csv", text))
    table = read_table(path, keeps_bad_rows=True)
    assert table.row_faults == {
        1: "line 3: 1 cells, but the header has 2",
        2: "line 4: 3 cells, but the header has 2",
        3: "line 5: not CSV: ',' expected after '\"'",
        4: "line 6: longer than 0 million characters",
    }
    checked = check_frame(table.frame, id_column="id", unreadable=table.row_faults)
    assert [(row.row_id, row.prompt) for row in checked.rows] == [
        ("1", "a"), ("2", ""), ("row-2", ""), ("row-3", ""), ("row-4", ""), ("3", "f"),
    ]  # fmt: skip
    assert checked.row_faults == table.row_faults
    assert read_table(path, keeps_bad_rows=True).take([5, 2]).row_faults == {1: table.row_faults[2]}
    lines = write_file(tmp_path, "a.jsonl", '{"prompt": "a"}\n{"prompt"\n[1]\n')
    assert list(read_table(str(lines), keeps_bad_rows=True).row_faults) == [1, 2]
    broken = write_file(tmp_path, "b.csv", 'id,prompt\n1,"open\n2,b\n')
    with pytest.raises(InputError, match="unexpected end of data"):
        read_table(str(broken), keeps_bad_rows=True)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_compressed_file_is_a_fault(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.csv{suffix}"
    frame = pd.DataFrame({"prompt": [f"row {number * 7919 % 10_007}" for number in range(20_000)]})
    Output(name=str(path)).write([frame], "run")
    assert read_frame(path)["prompt"].tolist() == frame["prompt"].tolist()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read"):
        read_frame(path)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('{"p": "a", "p": "b"}', "the key 'p' occurs twice"),
        ('{"p": [{"x": 1, "y": {"z": 1, "z": 2}}]}', "the key 'z' occurs twice"),
        ('{"p": 1, "big": 1e400}', "the number 1e400 of the key 'big' is beyond the range of floats"),
        (
            '{"p": {"n": [1, [-1e999]], "m": {}}}',
            "the number -1e999 of the key 'n' is beyond the range of floats",
        ),
        ('{"p": Infinity, "q": NaN, "r": -1e300, "s": 1e-400}', None),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_json_that_python_would_change_is_a_bad_row(
    tmp_path: Path, row: str, fault: str | None, suffix: str
) -> None:
    rows = ['{"p": "first"}', row, '{"p": "last"}']
    content = "\n".join(rows) if suffix == "jsonl" else f"[{','.join(rows)}]"
    table = read_table(str(write_file(tmp_path, f"a.{suffix}", content)), keeps_bad_rows=True)
    where = "line 2" if suffix == "jsonl" else "element 2 of the array"
    assert table.row_faults == ({} if fault is None else {1: f"{where}: {fault}"})
    assert records(table.frame)[2]["p"] == "last"


@pytest.mark.parametrize(
    ("name", "text", "first"),
    [
        ("a.tsv", 'id\tp\n1\t"foo\n2\tbar\n3\tbaz"\n4\tq\n', 2),
        ("a.tsv", 'id\tp\r\n0\tx\r\n1\t"foo\r\n2\tbar"\r\n', 3),
        ("a.tsv", 'id\tp\tq\n1\t"foo\tx\n2\tbar"\tx\n', 2),
        ("a.csv", 'id,p\n1,"foo\n2,bar\n3,baz"\n4,q\n', 2),
        ("a.csv", 'id;p;q\n1;"foo;x\n2;bar";y\n', 2),
        ("a.csv", 'id,p\n1,"Dear all,\nthank you, and\nbye"\n', None),
        ("a.csv", 'id,p\n1,"Hello\nyou, and me"\n', None),
        ("a.tsv", 'id\tp\n1\t"two\nlines"\n', None),
        ("a.csv", 'p\n"two\nlines\nand more"\n', None),
        ("a.csv", '"id\n,",p\n1,x\n', None),
    ],
)
def test_rows_that_a_quotation_mark_may_have_merged_are_noted(
    tmp_path: Path, name: str, text: str, first: int | None
) -> None:
    path = write_file(tmp_path, name, text)
    table = read_table(str(path))
    notes = [note for note in table.notes if "separated by" not in note]
    assert (notes == []) == (first is None)
    if first is not None:
        assert notes[0].startswith(f"INPUT {path}, line {first}: one row with line breaks in a cell")
        assert notes[0].endswith("convert it to JSON Lines or Parquet")
        assert len(read_table(str(path), limit=1).notes) == len(table.notes) - (first == 3)


TABLE = pd.DataFrame({"id": [1, 2], "prompt": ["a", "b"]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TABLE.to_json(), "with an object for each column or row of a table (pandas writes an array with"),
        (TABLE[["prompt"]].to_json(indent=1), "with an object for each column or row of a table"),
        (TABLE.to_json(orient="index"), "with an object for each column or row of a table"),
        (TABLE.iloc[:1].to_json(orient="index"), "with an object for each column or row of a table"),
        (TABLE.set_index("id", drop=False).to_json(), "with an object for each column or row of a table"),
        (TABLE.to_json(orient="split"), "with the columns and the rows of a table (pandas writes an array"),
        (TABLE.to_json(orient="split", index=False), "with the columns and the rows of a table"),
        (TABLE.to_json(orient="table"), "whose rows are in 'data'"),
        (json.dumps(TABLE.to_dict("list")), "with a list for each column of a table"),
        ('{"count": 1, "next": null, "results": [{"prompt": "a"}]}\n\n', "whose rows are in 'results'"),
        ('\n{"rows":\n [{"prompt": "a"}, {"prompt": "b"}]}', "whose rows are in 'rows'"),
    ],
)
def test_a_json_file_with_one_object_that_is_a_table_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    path = write_file(tmp_path, "a.json", content)
    for keeps_bad_rows in (False, True):
        with pytest.raises(InputError) as caught:
            read_table(str(path), keeps_bad_rows=keeps_bad_rows)
        (line,) = caught.value.faults
        assert line.startswith(f"INPUT {path}: the file is one object {message}")
        assert line.endswith(
            "write an array of objects instead; if the object is one row, put it in brackets: [{…}]"
        )


@pytest.mark.parametrize(
    ("row", "is_noted"),
    [
        ({"id": 1, "prompt": "a"}, False),
        ({"data": "a", "prompt": "b"}, False),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, True),
        ({"translation": {"en": "a", "de": "b"}}, True),
        ({"prompt": {"text": "a"}, "meta": {"day": 1}}, True),
        ({"prompt": "a", "tags": ["x", "y"], "data": []}, True),
        ({"a": [], "b": []}, True),
        ({}, False),
    ],
)
def test_a_json_file_with_one_object_is_one_row(tmp_path: Path, row: dict[str, Any], is_noted: bool) -> None:
    path = write_file(tmp_path, "a.json", f"\n{json.dumps(row)}\n\n")
    note = f"INPUT {path}: the file is one object, which is read as one row"
    table = read_table(str(path))
    assert records(table.frame) == ([row] if row else [])
    assert len(table.frame) == 1 or not row
    assert table.notes == ([note] if is_noted else [])
    # Several objects are rows, whatever they hold.
    two = write_file(tmp_path, "b.json", f"{json.dumps(row)}\n\n{json.dumps(row)}\n[1]")
    with pytest.raises(InputError, match="line 4: not a JSON object"):
        read_table(str(two))
    assert len(read_table(str(write_file(tmp_path, "c.jsonl", '{"data": [{"prompt": "a"}]}'))).frame) == 1


def test_notes_on_the_files_of_a_folder_are_few(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for number in range(7):
        write_file(tmp_path / "parts", f"{number}.csv", "id;prompt\n1;a\n")
    notes = read_table(f"{tmp_path}/parts/").notes
    assert len(notes) == 6
    assert notes[0].endswith("0.csv: the cells are separated by semicolons")
    assert notes[-1] == f"INPUT {tmp_path}/parts/: 2 more notes on its files"


def test_columns_without_a_name_get_one(tmp_path: Path) -> None:
    table = read_table(str(write_file(tmp_path, "a.csv", ",prompt,\n1,a,\n")))
    assert list(table.frame.columns) == ["column_1", "prompt", "column_3"]
    assert table.notes == [f"INPUT {tmp_path}/a.csv: columns without a name are called column_1, column_3"]


def test_folders_of_files_of_one_format_are_one_table(tmp_path: Path) -> None:
    for day, text in (("007", "id,prompt\n1,a\n"), ("8", "id,prompt\n2,b\n3,c\n")):
        (tmp_path / f"day={day}" / "n=1").mkdir(parents=True)
        write_file(tmp_path / f"day={day}" / "n=1", "part.csv", text)
    write_file(tmp_path, "_SUCCESS", "")
    found = records(read_frame(f"{tmp_path}/"))
    assert found == [
        {"id": "1", "prompt": "a", "day": "007", "n": 1},
        {"id": "2", "prompt": "b", "day": "8", "n": 1},
        {"id": "3", "prompt": "c", "day": "8", "n": 1},
    ]
    assert records(read_frame(f"{tmp_path}/", limit=2)) == found[:2]
    write_file(tmp_path, "b.jsonl", "{}\n")
    with pytest.raises(InputError, match="it has csv and jsonl files"):
        read_frame(f"{tmp_path}/")


@pytest.mark.parametrize(
    "lines",
    [
        ['{"v": {"a": 1.0, "b": [1]}, "n": 123456789012345678901}', '{"v": {"a": 2}, "n": 1}'],
        ['{"v": "7"}', '{"v": 7}'],
        ['{"v": [1]}', '{"v": ["x"]}', '{"v": null}'],
        ['{"v": true}', '{"v": 1}'],
        ['{"v": 1}', '{"v": 1.5}'],
        ['{"v": 9007199254740993}', '{"v": 1.5}'],
        ['{"v": 1}', '{"w": {}}', "{}", '{"v": 2, "w": "x"}'],
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json.gz"])
def test_a_folder_of_json_files_has_the_cells_of_one_file(
    tmp_path: Path, lines: list[str], suffix: str
) -> None:
    (tmp_path / "parts").mkdir()
    for number, line in enumerate(lines):
        content = f"{line}\n".encode()
        content = gzip.compress(content) if suffix.endswith(".gz") else content
        write_file(tmp_path / "parts", f"{number}.{suffix}", content)
    folder, file = (
        read_frame(f"{tmp_path}/parts/"),
        read_frame(write_file(tmp_path, "one.jsonl", "\n".join(lines))),
    )
    assert [repr(row) for row in records(folder)] == [repr(row) for row in records(file)]
    assert folder.dtypes.to_dict() == file.dtypes.to_dict()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"v": [1]}, {"v": ["x"]}, "b.parquet: the column 'v' has the type string here and int64 in"),
        (
            {"p": ["a"], "v": [2**53 + 1]},
            {"v": [1.5]},
            "a.parquet: the column 'v' does not fit the type double",
        ),
        ({"v": [1]}, None, "b.parquet: several columns are named 'v'"),
    ],
)
def test_a_folder_whose_files_do_not_fit_names_file_and_column(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any] | None, message: str
) -> None:
    twice = pa.table([pa.array([1]), pa.array([2])], names=["v", "v"])
    pq.write_table(pa.table(first), tmp_path / "a.parquet")
    pq.write_table(twice if second is None else pa.table(second), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="INPUT ") as caught:
        read_frame(f"{tmp_path}/")
    (line,) = caught.value.faults
    assert message in line


def test_hub_files_need_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="pip install huggingface_hub"):
        read_frame("hf://datasets/user/name/train.csv")


def test_excel_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    path = write_file(tmp_path, "a.xlsx", b"PK")
    with pytest.raises(InputError, match="pip install openpyxl"):
        read_frame(path)
    assert "pip install openpyxl" in Output(name=str(tmp_path / "o.xlsx")).faults("in.csv", None)[0]


def test_excel_workbooks_as_people_have_them(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.append([])
    sheet.append(["id", None, "day", "seen", "price"])
    sheet.append([1, "x", date(2026, 1, 2), datetime(2026, 1, 2, 3, 4), 7.0])  # noqa: DTZ001
    sheet.append([])
    sheet.append([2.5, None, None, datetime(2026, 1, 2)])  # noqa: DTZ001
    book.create_sheet("other")
    book.save(tmp_path / "a.xlsx")
    table = read_table(str(tmp_path / "a.xlsx"))
    assert table.notes == [f"INPUT {tmp_path}/a.xlsx: only the worksheet 'Sheet' is read"]
    texts = [[cell_text(cell) for cell in row.values()] for row in records(table.frame)]
    assert texts == [
        ["1", "x", "2026-01-02", "2026-01-02T03:04:00", "7"],
        ["2.5", None, None, "2026-01-02T00:00:00", None],
    ]
    with pytest.raises(OSError, match="at most 32,767 characters, and one has 32,768"):
        Output(name=str(tmp_path / "o.xlsx")).write([pd.DataFrame({"a": ["x" * 32_768]})], "run")


def test_cells_of_excel_without_a_value_are_bad_rows(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in ([], ["id", "x"], [1, "=1+1"], [], [2, "#N/A"], [3, "a", "b"], [4, "ok"], [None, "=2+2"]):
        book.worksheets[0].append(row)
    path = tmp_path / "a.xlsx"
    book.save(path)
    table = read_table(str(path), keeps_bad_rows=True)
    assert table.row_faults == {
        0: "worksheet row 3: the cell of column 'x' has a formula without a result: open the workbook in a "
        "spreadsheet and save it",
        1: "worksheet row 5: the cell of column 'x' has the error #N/A",
        2: "worksheet row 6: more cells than the header has",
        4: table.row_faults[0].replace("row 3", "row 8"),
    }
    with pytest.raises(InputError) as caught:
        read_table(str(path))
    assert caught.value.faults == (f"INPUT {path}, {table.row_faults[0]}",)


def test_hidden_rows_of_excel_are_read_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excel_file, "BLOCK_BYTES", 50)
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    for row in (
        [],
        ["id", "x"],
        [1, "a"],
        [],
        *([number, "b"] for number in range(2, 40)),
        ["z", "=1+1"],
    ):
        sheet.append(row)
    path = tmp_path / "a.xlsx"
    for hidden, count in (((), 0), ((2, 4), 0), ((2, 3, 4), 1), ((3, 5, 30, 50), 3)):
        for number in hidden:
            sheet.row_dimensions[number].hidden = True
        book.save(path)
        table = read_table(str(path), keeps_bad_rows=True)
        assert len(table.frame) == 40
        rows = "one row is read that is" if count == 1 else f"{count} rows are read that are"
        assert table.notes == (
            [f"INPUT {path}: {rows} hidden or filtered out in the worksheet"] if count else []
        )
    assert len(read_table(str(path), limit=1).notes) == 1


def test_the_first_visible_worksheet_of_excel_is_read(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.worksheets[0].append(["settings", "=1+1"])
    for name, state in (("very hidden", "veryHidden"), ("data", "visible"), ("more", "visible")):
        sheet = book.create_sheet(name)
        sheet.sheet_state = state
        for row in (["id", "x"], [1, f"={name!r}"] if name == "more" else [1, name]):
            sheet.append(row)
    book.worksheets[0].sheet_state = "hidden"
    book.save(tmp_path / "a.xlsx")
    table = read_table(str(tmp_path / "a.xlsx"))
    assert records(table.frame) == [{"id": 1, "x": "data"}]
    assert table.notes == [f"INPUT {tmp_path}/a.xlsx: only the worksheet 'data' is read"]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([[], [None, None, "id", None, "x"], [None, None, 1, None, "a"]], ["id", "column_4", "x"]),
        ([[None, None, "id"], [None, 7, 1]], ["column_2", "id"]),
        ([[None, "id"]], ["id"]),
        ([[None, "id"], [0, "a"]], ["column_1", "id"]),
    ],
)
def test_empty_columns_before_a_table_of_excel_are_left_out(
    tmp_path: Path, rows: list[list[Any]], columns: list[str]
) -> None:
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    book.save(tmp_path / "a.xlsx")
    assert list(read_frame(tmp_path / "a.xlsx").columns) == columns


def with_results(path: Path, *results: str) -> None:
    """Put the XML of a result after each formula of the first worksheet, as a spreadsheet does."""
    name = "xl/worksheets/sheet1.xml"
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    for result in results:
        parts[name] = re.sub(rb"><f>([^<]*)</f><v ?/>", f" {result}".encode(), parts[name], count=1)
    with zipfile.ZipFile(path, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)


def test_results_of_excel_formulas_are_read(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["id", "x"], [1, "=1+1"], [2, '=""'], [3, "=A1"]):
        book.worksheets[0].append(row)
    path = tmp_path / "a.xlsx"
    book.save(path)
    text = r't="str"><f>\1</f><v>'
    with_results(path, r"><f>\1</f><v>2</v>", f"{text}</v>", f"{text}id</v>")
    assert records(read_frame(path)) == [{"id": 1, "x": 2}, {"id": 2, "x": None}, {"id": 3, "x": "id"}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["a", "a"], [1, 2]], ": several columns are named 'a'; rename all but one"),
        ([], ": the first worksheet is empty"),
        ([["My report"], ["id", "x"], [1, 2]], ", worksheet row 2: more cells than the header has"),
        (
            [["a", "=1+1"], [1, 2]],
            ", worksheet row 1: the name of column 2 has a formula without a result: open the",
        ),
        (None, ": not an Excel workbook that can be read: "),
    ],
)
def test_a_fault_of_a_workbook_is_named_once(
    tmp_path: Path, rows: list[list[Any]] | None, message: str
) -> None:
    book = openpyxl.Workbook()
    if rows is None:
        book.create_chartsheet("chart", 0)
    for row in rows or []:
        book.worksheets[0].append(row)
    path = tmp_path / "a.xlsx"
    book.save(path)
    with pytest.raises(InputError) as caught:
        read_frame(path)
    (line,) = caught.value.faults
    assert line.startswith(f"INPUT {path}{message}")
    assert line.count("INPUT") == 1
