"""Runs over files as people have them: read, sent, written, exported, and read again."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opencode_tasks import AnnotationResult
from opencode_tasks.engine.export import export_run
from opencode_tasks.engine.run import execute
from opencode_tasks.engine.thread_executor import ThreadExecutor
from opencode_tasks.errors import InputError
from opencode_tasks.frames.io import Output, read_input
from opencode_tasks.ledger import Ledger
from opencode_tasks.orchestration.block_resolver import BlockResolver
from opencode_tasks.plan.command import PreparedRun, prepare


class Runs:
    """Runs in this process whose answers are the prompts, with a ledger of their own."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self.folder = folder
        self.ledger = str(folder / "ledger.db")
        self.options: dict[str, Any] = {
            "backend": "null",
            "opencode_bin": str(binary),
            "ledger": self.ledger,
        }

    def prepare(self, source: Path, target: Path, **options: Any) -> PreparedRun:
        values: dict[str, Any] = {**self.options, "bad_rows": "stop", **options}
        return prepare(str(source), str(target), resolver=BlockResolver(), base_config={}, **values)

    def run(self, source: Path, target: Path, **options: Any) -> tuple[AnnotationResult, list[str]]:
        """Write OUTPUT; return the result and the lines for the user."""
        prepared = self.prepare(source, target, **options)
        result = execute(prepared.plan, prepared.frame, executor=ThreadExecutor(), context=prepared.context)
        prepared.output.write(result.parts(), result.run_id)
        return result, list(prepared.notes)


@pytest.fixture
def runs(tmp_path: Path, opencode_binary: Path) -> Runs:
    return Runs(tmp_path, opencode_binary)


def test_a_csv_of_a_spreadsheet(runs: Runs, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv.gz", tmp_path / "out.csv"
    lines = ["id;prompt;", "=1;Preis 5 €;x", "=2;a;b;c", '=3;"-2+3\n";', ""]
    source.write_bytes(gzip.compress("\r\n".join(lines).encode("cp1252")))
    with pytest.raises(InputError, match="name its encoding with --encoding"):
        runs.prepare(source, target)
    with pytest.raises(InputError, match="line 3: 4 cells, but the header has 3"):
        runs.prepare(source, target, encoding="cp1252")
    options: dict[str, Any] = {"encoding": "cp1252", "bad_rows": "fail", "id_column": "id"}
    result, notes = runs.run(source, target, **options)
    assert notes == [
        f"INPUT {source}: the cells are separated by semicolons",
        f"INPUT {source}: columns without a name are called column_3",
    ]
    out = read_input(target)
    assert out[["id", "prompt", "column_3"]].to_numpy().tolist() == [
        ["=1", "Preis 5 €", "x"],
        ["=2", "a", "b"],
        ["=3", "-2+3\n", ""],
    ]
    assert out["status"].tolist() == ["completed", "failed", "completed"]
    assert out["error_message"].tolist()[1] == "line 3: 4 cells, but the header has 3"
    with Ledger.open(runs.ledger) as ledger:
        export_run(ledger, result.run_id, str(tmp_path / "people.csv"), database=None, protects_cells=True)
        export_run(ledger, result.run_id, str(tmp_path / "again.csv"), database=None)
    assert read_input(tmp_path / "people.csv")["id"].tolist() == ["'=1", "'=2", "'=3"]
    assert (tmp_path / "again.csv").read_bytes() == target.read_bytes()


@pytest.mark.slow
def test_a_second_stage_gets_the_answers_unchanged(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('id,prompt\n=7,"=SUM(A1), and -1"\n')
    for suffix in ("csv", "jsonl", "parquet", "xlsx"):
        first, middle, second = (tmp_path / f"{name}.{suffix}" for name in ("first", "middle", "second"))
        runs.run(tmp_path / "in.csv", first, id_column="id")
        drafts = pd.DataFrame(read_input(first)[["id", "response"]])
        drafts.columns = ["id", "draft"]
        Output(name=str(middle)).write([drafts], "run")
        result, _ = runs.run(middle, second, id_column="id", prompt_column="draft")
        # The same prompt has the same key, whatever the format.
        assert result.progress.reused == 1
        out = read_input(second)
        assert out[["id", "draft", "response"]].to_numpy().tolist() == [
            ["=7", "=SUM(A1), and -1", "=SUM(A1), and -1"]
        ]


def test_large_ids_and_types_of_a_parquet_file(runs: Runs, tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([2**53 + 1, 2**53 + 2], pa.int64()),
            "n": pa.array([7, None], pa.int64()),
            "image": pa.array([{"bytes": b"\x89PNG"}, None], pa.struct([("bytes", pa.binary())])),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    runs.run(
        tmp_path / "in.parquet",
        tmp_path / "out.parquet",
        template="n={n}",
        id_column="id",
        label=["n"],
        bad_rows="fail",
    )
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.select(table.column_names).equals(table)
    assert out.column("response").to_pylist() == ["n=7", None]
    with pytest.raises(InputError, match="holds bytes"):
        runs.prepare(tmp_path / "in.parquet", tmp_path / "o.csv", template="{image}")


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "json", "csv", "parquet", "xlsx"])
def test_a_day_without_rows_passes_through_both_stages(runs: Runs, tmp_path: Path, suffix: str) -> None:
    (tmp_path / "in.csv").write_text("id,prompt,label\n")
    first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
    runs.run(tmp_path / "in.csv", first, id_column="id")
    stage: dict[str, Any] = {
        "template": "{response}",
        "id_column": "id",
        "label": ["status"],
        "gold": ["label"],
        "min_accuracy": 0.9,
        "column_prefix": "two_",
    }
    result, _ = runs.run(first, second, **stage)
    assert result.progress.total == 0
    runs.run(first, tmp_path / "parts.parquet", partition_by=["label"], **stage)
    assert len(read_input(second)) == 0


def test_a_table_without_rows_that_replaces_a_file_is_noted(runs: Runs, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    for text, notes in (
        ("prompt\n", []),
        ("prompt\na\n", []),
        (
            "prompt\n",
            [f"OUTPUT {target}: INPUT has no rows, so the file is replaced by a table without rows"],
        ),
    ):
        source.write_text(text)
        assert runs.run(source, target)[1] == notes
    source.write_text("<!doctype html><title>Sign in</title>")
    with pytest.raises(InputError, match=r"in\.csv: a web page, and not a table"):
        runs.run(source, target, template="a constant text")


def test_a_day_without_rows_leaves_a_table_of_a_database_as_it_is(runs: Runs, tmp_path: Path) -> None:
    options: dict[str, Any] = {"database": f"sqlite:///{tmp_path}/d.db", "incremental": "id"}
    source, target = tmp_path / "in.jsonl", Path("sql:answers")
    for day in ("", '{"id": 1, "prompt": "a"}\n', "", '{"id": 2, "prompt": "b"}\n'):
        source.write_text(day)
        runs.run(source, target, **options)
    frame = read_input("sql:answers", database=options["database"])
    assert frame["id"].tolist() == [1, 2]


def test_an_empty_file_of_another_format_is_refused(runs: Runs, tmp_path: Path) -> None:
    for suffix in ("csv", "json", "parquet", "xlsx"):
        (tmp_path / f"in.{suffix}").write_bytes(b"")
        with pytest.raises(InputError, match="the file is empty"):
            runs.prepare(tmp_path / f"in.{suffix}", tmp_path / "o.csv")


UNION = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])


@pytest.mark.parametrize(
    "column",
    [
        UNION,
        pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
        pa.array([Decimal(1200), None], pa.decimal128(5, -2)),
        pa.nulls(2, pa.struct([("a", pa.month_day_nano_interval())])),
    ],
)
def test_columns_that_output_cannot_hold_are_found_before_anything_is_sent(
    runs: Runs, tmp_path: Path, column: Any
) -> None:
    table = pa.table({"prompt": ["a", "b"], "day": [1, 2], "odd": column})
    with pa.OSFile(str(tmp_path / "in.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    options: tuple[dict[str, Any], ...] = ({}, {"partition_by": ["day"]})
    for more in options:
        with pytest.raises(InputError, match="the column 'odd' cannot be written: "):
            runs.prepare(tmp_path / "in.arrow", tmp_path / "out.parquet", **more)
    runs.run(tmp_path / "in.arrow", tmp_path / "out.jsonl")
    runs.run(tmp_path / "in.arrow", tmp_path / "out.arrow")


def test_a_partition_that_no_folder_can_name_is_found(runs: Runs, tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "tags": [["x"]]}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="--partition-by: 'tags' cannot be the name of a folder"):
        runs.prepare(tmp_path / "in.parquet", tmp_path / "out.parquet", partition_by=["tags"])


def test_options_of_text_files_are_checked(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("prompt\na\n")
    with pytest.raises(InputError) as caught:
        runs.prepare(tmp_path / "in.csv", tmp_path / "o.csv", encoding="none-such", delimiter="ab")
    assert [fault[:20] for fault in caught.value.faults] == ["--encoding: 'none-su", "--delimiter: 'ab' is"]
