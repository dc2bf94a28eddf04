"""Schema of a ledger on SQLite and PostgreSQL: new, upgraded, newer, opened by several processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from ledger_processes import claim_in_processes
from sqlalchemy import Connection, event, inspect, text

from opencode_tasks.errors import SetupError
from opencode_tasks.ledger import ClaimRequest, Ledger
from opencode_tasks.ledger.migrate import MIGRATIONS, VERSION_TABLE, VIEWS_VERSION, revisions, upgrade
from opencode_tasks.ledger.schema import metadata
from opencode_tasks.ledger.views import VIEWS

RECORDED = Path(__file__).parents[1] / "recordings" / "ledgers"
UNRELEASED = sorted({path.name.partition(".")[0] for path in RECORDED.glob("*.sql")})
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def load(name: str, url: str) -> None:
    """Fill an empty database with a recorded ledger."""
    if url.startswith("postgres"):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute((RECORDED / f"{name}.postgresql.sql").read_bytes())
    else:
        file = sqlite3.connect(url)
        file.executescript((RECORDED / f"{name}.sqlite.sql").read_text(encoding="utf-8"))
        file.close()


def columns_and_indexes(connection: Connection, tables: Sequence[str]) -> dict[str, Any]:
    """The schema as the database reports it."""
    found = inspect(connection)
    schema: dict[str, Any] = {}
    for table in tables:
        columns = found.get_columns(table)
        schema[table] = {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in columns
            },
            "key": found.get_pk_constraint(table)["constrained_columns"],
            "indexes": {
                index["name"]: (
                    index["column_names"],
                    {name: str(value) for name, value in index.get("dialect_options", {}).items()},
                )
                for index in found.get_indexes(table)
            },
        }
    return schema


def schema_of(ledger: Ledger) -> dict[str, Any]:
    with ledger._database.engine.connect() as connection:
        tables = sorted({*inspect(connection).get_table_names(), *metadata.tables} - {VERSION_TABLE})
        return {
            "tables": columns_and_indexes(connection, tables),
            "views": sorted(inspect(connection).get_view_names()),
            "revision": connection.execute(text(f"select version_num from {VERSION_TABLE}")).all(),
        }


def test_the_revisions_create_the_tables_of_the_metadata(ledger: Ledger) -> None:
    created = schema_of(ledger)["tables"]
    with ledger._database.engine.begin() as connection:
        for view in reversed(VIEWS):
            connection.execute(text(f"drop view {view.name}"))
    metadata.drop_all(ledger._database.engine)
    metadata.create_all(ledger._database.engine)
    assert created == schema_of(ledger)["tables"]
    assert set(created) == set(metadata.tables)


def test_the_file_names_order_the_revisions() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert revisions() == known[::-1]


def test_modules_of_migrations_import_nothing_of_the_package() -> None:
    sources = [path.read_text(encoding="utf-8") for path in MIGRATIONS.rglob("*.py")]
    assert len(sources) >= 4
    assert not [source for source in sources if "import opencode" in source or "from opencode" in source]


@pytest.mark.parametrize("name", UNRELEASED)
def test_a_ledger_from_before_the_first_release_is_upgraded(
    name: str, ledger_url: str, tmp_path: Path
) -> None:
    load(name, ledger_url)
    with Ledger.open(ledger_url) as ledger:
        upgraded = schema_of(ledger)
        assert_content(ledger)
        with ledger._database.engine.connect() as connection:
            for view in VIEWS:
                found = connection.execute(text(f"select * from {view.name}"))
                assert list(found.keys()) == view.columns
    assert upgraded == schema_of_new_ledger(ledger_url, tmp_path)


def schema_of_new_ledger(url: str, folder: Path) -> dict[str, Any]:
    if url.startswith("postgres"):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("drop schema public cascade")
            connection.execute("create schema public")
    else:
        url = str(folder / "new.db")
    with Ledger.open(url) as ledger:
        return schema_of(ledger)


def assert_content(ledger: Ledger) -> None:
    """The content of the recorded ledgers: a finished run and an interrupted one that can be resumed."""
    interrupted, done = ledger.runs.newest()
    assert (done["status"], done["flow_run_ids"], done["ended_at"]) == (
        "completed", ["flow-1", "flow-2"], at(9),
    )  # fmt: skip
    assert (interrupted["flow_run_ids"], interrupted["origin"]) == ([], "annotate")
    first, second = ledger.results.outcomes("done")
    assert (first["response"], first["structured"], first["completed_at"]) == (
        "yes", {"label": "positive"}, at(2),
    )  # fmt: skip
    assert (second["status"], second["error_type"], second["attempts"]) == ("failed", "invalid_request", 2)
    attempts = ledger.results.attempts("done")
    assert sorted(attempt["spent_pico"] for attempt in attempts) == [5, 7, 7]
    assert {step["cost_reported_pico"] for step in ledger.results.usage("done")} == {5, 7}
    assert ledger.budgets.get("done").spent_pico == 19
    details = ledger.results.row("done", "b")
    assert details is not None
    assert [session["turns"] for session in details["sessions"]] == [1, 1]
    assert details["inner_retries"][0]["message"] == "slow"
    assert ledger.reports.spent(("run",))[0]["known_cost_pico"] == 19
    assert [row["row_id"] for row in ledger.reports.unreported()] == ["c"]
    request = ClaimRequest(
        run_id="open",
        owner="new",
        gate_id="another",
        limit=9,
        now=at(60),
        lease_s=60,
        node_id="n",
        host="h",
        backend="server",
        data_dir=None,
    )
    (claimed,) = ledger.queue.claim(request).rows
    assert (claimed.row.row_id, claimed.number, claimed.lease.fence) == ("c", 2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0001", "0007"])
def test_two_processes_may_upgrade_a_ledger_at_once(name: str, ledger_url: str) -> None:
    load(name, ledger_url)
    assert claim_in_processes(ledger_url, 2, 0) == ["", ""]
    with Ledger.open(ledger_url) as ledger:
        assert_content(ledger)


@pytest.mark.nightly
def test_four_processes_may_create_a_ledger_at_once(ledger_url: str) -> None:
    claim_in_processes(ledger_url, 4, 0)
    with Ledger.open(ledger_url) as ledger:
        assert schema_of(ledger)["revision"] == [(revisions()[-1],)]


def set_views_version(ledger: Ledger, version: int) -> None:
    """Replace a view and say that it is of another version."""
    with ledger._database.engine.begin() as connection:
        connection.execute(text("drop view cost_by_day"))
        connection.execute(text("create view cost_by_day as select run_id from runs"))
        connection.execute(text(f"update ledger_info set value = '{version}' where name = 'views'"))


def columns_of_view(ledger: Ledger) -> list[str]:
    with ledger._database.engine.connect() as connection:
        return list(connection.execute(text("select * from cost_by_day")).keys())


def test_a_changed_view_reaches_a_ledger_with_current_tables(ledger_url: str) -> None:
    with Ledger.open(ledger_url) as ledger:
        set_views_version(ledger, VIEWS_VERSION - 1)
        assert columns_of_view(ledger) == ["run_id"]
    for _ in range(2):
        with Ledger.open(ledger_url) as ledger:
            assert columns_of_view(ledger) == next(v.columns for v in VIEWS if v.name == "cost_by_day")


def test_the_views_of_a_newer_package_with_the_same_tables_stay(ledger_url: str) -> None:
    with Ledger.open(ledger_url) as ledger:
        set_views_version(ledger, VIEWS_VERSION + 1)
    with Ledger.open(ledger_url) as ledger:
        assert columns_of_view(ledger) == ["run_id"]


def may_read(connection: Connection, view: str) -> bool:
    query = f"select has_table_privilege('Reader 50%', '{view}', 'SELECT')"
    return connection.execute(text(query)).scalar_one()


def test_roles_keep_the_right_to_read_a_changed_view(empty_postgresql: str) -> None:
    with Ledger.open(empty_postgresql) as ledger, ledger._database.engine.begin() as connection:
        connection.execute(text('drop role if exists "Reader 50%"'))
        connection.execute(text('create role "Reader 50%"'))
        connection.execute(text('grant select on cost_by_run to "Reader 50%", public'))
        connection.execute(text(f"update ledger_info set value = '{VIEWS_VERSION - 1}'"))
    with Ledger.open(empty_postgresql) as ledger, ledger._database.engine.begin() as connection:
        readable = [view.name for view in VIEWS if may_read(connection, view.name)]
        assert readable == ["cost_by_run"]
        connection.execute(text('drop owned by "Reader 50%"'))
        connection.execute(text('drop role "Reader 50%"'))


def test_a_view_of_the_user_over_a_changed_view_is_named_as_the_cause(empty_postgresql: str) -> None:
    with Ledger.open(empty_postgresql) as ledger, ledger._database.engine.begin() as connection:
        connection.execute(text("create view mine as select * from cost_by_run"))
        connection.execute(text(f"update ledger_info set value = '{VIEWS_VERSION - 1}'"))
    with pytest.raises(SetupError, match="since other views use them"):
        Ledger.open(empty_postgresql)


def test_a_newer_schema_is_refused(ledger_url: str) -> None:
    with Ledger.open(ledger_url) as ledger:
        with ledger._database.engine.begin() as connection:
            connection.execute(text(f"update {VERSION_TABLE} set version_num = '9999'"))
        shown = ledger._database.engine.url.render_as_string()
    with pytest.raises(SetupError) as caught:
        Ledger.open(ledger_url)
    message = caught.value.raw_message
    assert message.startswith(f"The ledger {shown} has schema 9999,")
    assert message.endswith("Upgrade opencode-tasks here, or name another ledger.")
    assert "\n" not in message


def test_a_current_ledger_is_opened_without_a_write(ledger_url: str) -> None:
    with Ledger.open(ledger_url):
        pass
    statements: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    with Ledger.open(ledger_url) as ledger:
        engine = ledger._database.engine
        event.listen(engine, "before_cursor_execute", record)
        upgrade(engine)
    assert statements
    assert not [one for one in statements if one.upper().startswith(("CREATE", "DROP", "INSERT", "UPDATE"))]
