"""INPUT and OUTPUT other than local files: URLs, database tables, Parquet folders; incremental runs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
from cluster import Desk
from prefect.blocks.system import Secret
from pydantic import SecretStr
from sqlalchemy import create_engine, text

from opencode_tasks import InputError
from opencode_tasks.frames.columns import output_columns
from opencode_tasks.frames.io import Output, read_input
from opencode_tasks.frames.output_frame import output_frame
from opencode_tasks.frames.validate import check_frame
from opencode_tasks.frames.write_file import write_bytes
from opencode_tasks.orchestration.flows import annotate_dataset
from opencode_tasks.testing import Reply


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database as users write it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'data.db'}"
        return
    url: str = request.getfixturevalue("postgresql_url")
    yield url
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        for table in ("reviews", "labels", "mine"):
            connection.execute(text(f"drop table if exists {table}"))
    engine.dispose()


def run_sql(database: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements and return the rows of the last one."""
    engine = create_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    rows: list[tuple[Any, ...]] = []
    with engine.begin() as connection:
        for statement in statements:
            result = connection.execute(text(statement))
            rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


def add_reviews(database: str, numbers: range) -> None:
    values = ", ".join(f"({number}, 'row {number}', 'd{number % 2}')" for number in numbers)
    run_sql(
        database,
        "create table if not exists reviews (id integer primary key, prompt varchar(40), day varchar(8))",
        f"insert into reviews values {values}",
    )


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.prefect
def test_urls_are_read_and_written(desk: Desk, s3: str) -> None:
    write_bytes(b"id,prompt\n007,row 7\n008,row 8\n", f"{s3}/in/reviews.csv")
    ran = desk.annotate(f"{s3}/in/reviews.csv", "-o", f"{s3}/out/labelled.parquet", "--id-column", "id")
    assert ran.code == 0, ran.stderr
    written = read_input(f"{s3}/out/labelled.parquet")
    assert written[["id", "response"]].to_numpy().tolist() == [["007", "row 7"], ["008", "row 8"]]
    write_bytes(b'{"prompt": "row 9"}\n', "memory://in.jsonl")
    options: dict[str, Any] = {
        "model": "fake/echo",
        "opencode_config": desk.provider.opencode_config(),
        "opencode_bin": str(desk.binary),
        "ledger": str(desk.folder / "ledger.db"),
        "runner": "threads",
    }
    summary: Any = annotate_dataset("memory://in.jsonl", "memory://out.csv", **options)
    assert summary["rows"]["completed"] == 1
    assert read_input("memory://out.csv")["response"].tolist() == ["row 9"]


@pytest.mark.slow
@pytest.mark.scripted
def test_incremental_runs_from_a_query_to_a_table(desk: Desk, database: str) -> None:
    add_reviews(database, range(3))
    desk.provider.on("row 1", Reply(status=400, body={"error": {"message": "no"}}), Reply(text="fixed"))
    query = "sql:SELECT id, prompt, day FROM reviews WHERE prompt LIKE 'row%' ORDER BY id"
    arguments = desk.arguments(query, "-o", "sql:labels", "--incremental", "id", "--json", "--label", "day")
    env = {"OPENCODE_TASKS_DATABASE": database}
    first = desk.run(*arguments, env=env)
    assert first.code == 1, first.stderr
    assert first.summary["rows"]["completed"] == 2
    add_reviews(database, range(3, 5))
    second = desk.run(*arguments, env=env)
    # The new rows and the failed one are sent.
    assert second.code == 0, second.stderr
    assert second.summary["rows"]["completed"] == 3
    assert sorted(desk.provider.prompts()) == ["row 0", "row 1", "row 1", "row 2", "row 3", "row 4"]
    found = run_sql(database, "select id, response, status from labels order by id")
    assert found == [
        (0, "row 0", "completed"),
        (1, "fixed", "completed"),
        (2, "row 2", "completed"),
        (3, "row 3", "completed"),
        (4, "row 4", "completed"),
    ]
    third = desk.run(*arguments, env=env)
    assert (third.code, third.summary["rows"]["completed"]) == (0, 0)
    assert len(run_sql(database, "select id from labels")) == 5
    # A purged row is not sent again.
    purged = desk.run("purge", "--before", "2100-01-01", "--ledger", str(desk.folder / "ledger.db"))
    assert purged.code == 0, purged.stderr
    fourth = desk.run(*arguments, env=env)
    assert (fourth.code, len(desk.provider.calls)) == (0, 6)


HOSTILE_VALUES = [
    "a\0b",
    "half \ud800",
    10**30,
    {"deep": json.loads("[" * 99 + "]" * 99)},
    {"text": "a\0b \ud800", "number": 10**30},
]


@pytest.mark.parametrize("value", HOSTILE_VALUES, ids=["nul", "surrogate", "integer", "deep", "nested"])
def test_a_value_that_a_database_cannot_store_leaves_the_others_right(database: str, value: Any) -> None:
    good = 7 if isinstance(value, int) else "good"
    columns = {"response": ["a", "b"], "status": ["completed"] * 2, "error_type": [None, None]}
    frame = pd.DataFrame({**columns, "session_id": ["s", "t"]})
    frame["given"] = pd.Series([good, value], dtype=object)
    Output(name="sql:labels", database=database).write([frame], "r1")
    stored = run_sql(database, "select response, given from labels order by response")
    assert [row[0] for row in stored] == ["a", "b"]
    assert str(stored[0][1]) == str(good)
    assert stored[1][1]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_values_that_a_file_cannot_hold_leave_the_others_right(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"id": range(len(HOSTILE_VALUES)), "given": pd.Series(HOSTILE_VALUES, dtype=object)})
    target = str(tmp_path / f"out.{suffix}")
    Output(name=target).write([frame], "r1")
    read = read_input(target)
    assert [int(value) for value in read["id"]] == list(range(len(HOSTILE_VALUES)))
    assert str(10**30) in str(read["given"][2])


def test_table_without_a_key_is_replaced(database: str) -> None:
    output = Output(name="sql:labels", database=database)
    columns = {"response": ["a", None], "status": ["completed", "open"], "error_type": [None, None]}
    frame = pd.DataFrame({**columns, "session_id": ["s", "t"], "nested": [{"x": 1.0}, None]})
    assert output.faults("in.csv", list(frame.columns)) == []
    output.write([frame], "r1")
    output.write([frame], "r1")
    assert read_input("sql:labels", database=database)["nested"].tolist() == ['{"x": 1}', None]
    output.write([frame.head(1)], "r2")
    assert run_sql(database, "select response, error_type from labels") == [("a", None)]
    assert read_input("sql:labels", database=database, limit=0).columns.tolist() == list(frame.columns)
    faults = output.faults("in.csv", ["response", "color"])
    assert faults == ["OUTPUT sql:labels: the table has no columns color; use another name"]


@pytest.mark.scripted
@pytest.mark.prefect
def test_faults_of_tables_are_found_before_a_prompt_is_sent(desk: Desk, database: str) -> None:
    run_sql(database, "create table mine (id integer)", "insert into mine values (1)")
    secret = f"d{uuid.uuid4().hex[:8]}"
    Secret(value=SecretStr(database)).save(secret)  # pyright: ignore[reportUnknownMemberType]
    arguments = [*desk.arguments("sql:nothing", "-o", "sql:mine"), "--database", f"block://secret/{secret}"]
    ran = desk.run(*arguments)
    assert (ran.code, desk.provider.calls) == (2, [])
    assert "INPUT sql:nothing: there is no such table" in ran.stderr
    assert "OUTPUT sql:mine: the table exists and was not written by opencode-tasks" in ran.stderr
    ran = desk.run(*desk.arguments("sql:nothing", "-o", "sql:mine"))
    assert ran.code == 2
    assert "--database: sql: needs the URL of a database" in ran.stderr
    ran = desk.run(*desk.arguments("sql:delete from mine", "-o", "sql:mine;drop"))
    assert ran.code == 2
    assert "OUTPUT sql:mine;drop: not the name of a table" in ran.stderr
    with pytest.raises(InputError, match="not a table, and not a query"):
        read_input("sql:delete from mine", database=database)
    colons = read_input(
        "sql:select 'a:b' as x, '100%' as y, cast(id as integer) as z from mine", database=database
    )
    assert colons.to_numpy().tolist() == [["a:b", "100%", 1]]
    with pytest.raises(InputError, match="cannot be read"):
        read_input("sql:select color from mine", database=database)
    with pytest.raises(InputError, match="the URL is not valid") as caught:
        read_input("sql:mine", database="not a URL with p4ssword")
    assert "p4ssword" not in str(caught.value)
    assert run_sql(database, "select id from mine") == [(1,)]


def test_a_table_can_have_any_name(database: str) -> None:
    schema = "main" if database.startswith("sqlite") else "public"
    for table in ("t 1", "ü-2", 'q"uote', "50% (new)"):
        quoted = table.replace('"', '""')
        run_sql(
            database,
            f'create table "{quoted}" (id integer, prompt text)',
            f"insert into \"{quoted}\" values (1, 'a')",
        )
        try:
            for name in (table, f"{schema}.{table}"):
                assert read_input(f"sql:{name}", database=database).to_numpy().tolist() == [[1, "a"]]
        finally:
            run_sql(database, f'drop table "{quoted}"')
    with pytest.raises(InputError, match="sql:t 2: not a table, and not a query"):
        read_input("sql:t 2", database=database)


def test_a_query_cannot_write(database: str) -> None:
    run_sql(database, "create table mine (id integer)")
    if database.startswith("postgresql"):
        frame = read_input(
            "sql:with added as (insert into mine values (1) returning id) select id from added",
            database=database,
        )
        assert frame["id"].tolist() == [1]
    assert run_sql(database, "select id from mine") == []


@pytest.mark.parametrize("location", ["local", "s3"])
def test_partitioned_parquet_grows_with_each_run(
    location: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = f"{request.getfixturevalue('s3') if location == 's3' else tmp_path}/labelled.parquet"
    first, second = "20260101-000000-aaaaaa", "20260102-000000-bbbbbb"
    output = Output(name=folder, partition_by=("day", "status"), grows=True)
    frame = pd.DataFrame({"id": [1, 2, 3], "day": ["a", "a", None], "status": ["open", "completed", "open"]})
    assert output.faults("in.csv", list(frame.columns)) == []
    output.write([frame], first)
    # The rows of the same run move to other folders.
    output.write([frame.assign(status="completed")], first)
    output.write([pd.DataFrame({"id": [4], "day": ["b"], "status": ["completed"]})], second)
    found = read_input(f"{folder}/").sort_values("id")
    assert found["id"].tolist() == [1, 2, 3, 4]
    assert found["status"].astype(str).tolist() == ["completed"] * 4
    assert found["day"].astype(object).where(found["day"].notna(), None).tolist() == ["a", "a", None, "b"]
    # Without grows, files of other runs are removed; files that no run wrote are kept.
    filesystem, path = fsspec.core.url_to_fs(folder)
    filesystem.touch(f"{path}/day=a/mine.txt")
    Output(name=folder, partition_by=("day",)).write([frame], second)
    files = [name.rpartition("/")[2] for name in filesystem.find(path)]
    assert sorted(files) == [f"{second}-0.parquet", f"{second}-0.parquet", "mine.txt"]


@pytest.mark.scripted
def test_partitions_are_checked_before_a_prompt_is_sent(desk: Desk) -> None:
    desk.write_csv("in.csv", [{"prompt": "a", "day": "x"}])
    ran = desk.annotate("in.csv", "-o", "out.csv", "--partition-by", "day")
    assert ran.code == 2
    assert "--partition-by: OUTPUT out.csv must be a folder with a name that ends with .parquet" in ran.stderr
    ran = desk.annotate("in.csv", "-o", "out.parquet", "--partition-by", "color")
    assert ran.code == 2
    assert "--partition-by: OUTPUT will have no column 'color'" in ran.stderr
    ran = desk.annotate("in.csv", "-o", "out.csv", "--incremental", "day", "--id-column", "prompt")
    assert ran.code == 2
    assert "--incremental: day is the row id, but --id-column is prompt" in ran.stderr


@pytest.mark.nightly
@pytest.mark.scripted
def test_resumed_incremental_run_keeps_its_rows(desk: Desk) -> None:
    refused = Reply(status=401, body={"error": {"message": "bad key"}})
    desk.provider.on("row 1", refused, Reply(text="late"))
    rows = [{"id": str(number), "prompt": f"row {number}"} for number in range(2)]
    desk.write_csv("in.csv", rows)
    arguments = desk.arguments(
        "in.csv", "-o", "out.csv", "--incremental", "id", "--concurrency", "1", "--limit", "5"
    )
    ran = desk.run(*arguments)
    assert ran.code == 75, ran.stderr
    # The input grows before the run is resumed.
    desk.write_csv("in.csv", [*rows, {"id": "2", "prompt": "row 2"}])
    ran = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"))
    assert ran.code == 0, ran.stderr
    assert [row["id"] for row in desk.read_csv("out.csv")] == ["0", "1"]
    ran = desk.run(*arguments)
    assert ran.code == 0, ran.stderr
    assert [row["id"] for row in desk.read_csv("out.csv")] == ["2"]


POSTGRESQL_TYPES = {
    "id": ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "exact": ("numeric(30,10)", "12345678901234567890.0000000001", "12345678901234567890.0000000001"),
    "loose": ("numeric", "1.10", "1.10"),
    "doc": ("jsonb", """'{"b": [1, 2.5], "a": null}'""", '{"a": null, "b": [1, 2.5]}'),
    "list": ("text[]", "array['x', null, 'é']", '["x", null, "é"]'),
    "ids": ("uuid[]", "array['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid]", None),
    "zoned": ("timestamptz", "'2026-01-02 03:04:05.5+02'", "2026-01-02T01:04:05.500000Z"),
    "local": ("timestamp", "'2026-01-02 03:04:05'", "2026-01-02T03:04:05"),
    "span": ("interval", "'1 day 2 seconds'", "P1DT2S"),
    "host": ("inet", "'10.0.0.1'", "10.0.0.1"),
    "net": ("cidr", "'10.0.0.0/8'", "10.0.0.0/8"),
    "blob": ("bytea", r"'\x8950'", None),
    "small": ("smallint", "7", "7"),
    "flag": ("boolean", "true", "True"),
    "day": ("date", "'2026-01-02'", "2026-01-02"),
    "code": ("varchar(9)", "'007'", "007"),
}


@pytest.mark.parametrize("is_query", [False, True])
def test_types_of_postgresql_are_read_and_written(postgresql_url: str, is_query: bool) -> None:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _, _) in POSTGRESQL_TYPES.items())
    values = ", ".join(value for _, value, _ in POSTGRESQL_TYPES.values())
    nulls = ", ".join(["gen_random_uuid()", *["null"] * (len(POSTGRESQL_TYPES) - 1)])
    try:
        run_sql(postgresql_url, f"create table typed ({columns})")
        run_sql(postgresql_url, f"insert into typed values ({values})".replace(":", r"\:"))
        run_sql(postgresql_url, f"insert into typed values ({nulls})")
        frame = read_input("sql:select * from typed" if is_query else "sql:typed", database=postgresql_url)
        for name, (_, _, prompt) in POSTGRESQL_TYPES.items():
            checked = check_frame(frame, prompt_column=name)
            if name == "blob":
                assert "holds bytes" in checked.faults[0]
            else:
                found = next(iter(checked.rows)).prompt
                assert found == prompt or (prompt is None and found.startswith('["a0ee'))
        done = output_frame(frame, [{"status": "completed"}] * 2, output_columns(None))
        done.attrs = frame.attrs
        output = Output(name="sql:typed_out", database=postgresql_url, key="id")
        assert output.faults("sql:typed", list(done.columns), done) == []
        assert run_sql(postgresql_url, "select to_regclass('typed_out')") == [(None,)]
        output.write([done], "r1")
        output.write([done], "r1")
        names = ", ".join(POSTGRESQL_TYPES)
        out = run_sql(postgresql_url, f"select {names} from typed_out order by small")
        assert out == run_sql(postgresql_url, f"select {names} from typed order by small")
        kinds = "select column_name, data_type, udt_name from information_schema.columns where table_name = "
        described = {row[0]: row[1:] for row in run_sql(postgresql_url, f"{kinds}'typed_out'")}
        for name, *kind in run_sql(postgresql_url, f"{kinds}'typed'"):
            assert described[name] == tuple(kind)
    finally:
        run_sql(postgresql_url, "drop table if exists typed", "drop table if exists typed_out")


def test_decimals_and_times_of_sqlite_are_kept(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'data.db'}"
    run_sql(
        database,
        "create table mine (id integer, price numeric(10, 2), whole numeric, seen timestamp, flag boolean)",
        r"insert into mine values (1, 1.10, 7.0, '2026-01-02 03\:04\:05', true)",
        "insert into mine values (2, '1e3x', null, 'late', null)",
    )
    frame = read_input("sql:mine", database=database)
    prompts = {
        name: [row.prompt for row in check_frame(frame, prompt_column=name).rows] for name in frame.columns
    }
    assert prompts["price"] == ["1.1", "1e3x"]
    assert prompts["whole"] == ["7", ""]
    assert prompts["flag"] == ["True", ""]
    written = pd.DataFrame({"response": ["a"], "status": [None], "error_type": [None], "session_id": [None]})
    written["price"] = pd.Series([Decimal("1.10")], dtype=object)
    written["seen"] = pd.Series([datetime(2026, 1, 2, tzinfo=UTC)])
    output = Output(name="sql:labels", database=database)
    assert output.faults("in.csv", list(written.columns), written) == []
    output.write([written], "r1")
    found = run_sql(database, "select price, seen from labels")
    assert found == [("1.10", "2026-01-02T00:00:00Z")]
    again = read_input("sql:labels", database=database)
    output.write([again], "r2")
    assert run_sql(database, "select price, seen from labels") == found


def test_columns_that_a_table_cannot_have_are_found_before_a_prompt_is_sent(
    database: str, tmp_path: Path
) -> None:
    output = Output(name="sql:labels", database=database)

    def faults(*names: str) -> list[str]:
        frame = pd.DataFrame([["x"] * len(names)], columns=pd.Index(names))
        sample = output_frame(frame, [{}], output_columns(None))
        return output.faults("in.csv", list(sample.columns), sample)

    assert faults("id", "a.b", "{x}", "50%", "group", " lead", 'q"uote', "a(b):c") == []
    assert faults("x" * 63) == []
    for name in ("x" * 64, "é" * 32):
        expected = [] if database.startswith("sqlite") else [f"the name '{name}' has 64 bytes"]
        assert [fault.split(": ")[1] for fault in faults(name)] == expected
    (fault,) = faults("")
    assert "a column has no name, which a database needs" in fault
    for name in ("Response", "STATUS"):
        (fault,) = faults(name)
        assert "differ by case only" in fault
        assert repr(name) in fault
    (fault,) = faults("a\0b")
    assert fault.startswith("OUTPUT sql:labels: the columns cannot be written")
    if database.startswith("postgresql"):
        assert "xmin" in faults("xmin")[0]
    assert faults("id") == []
