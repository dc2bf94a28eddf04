"""Ledger on a PostgreSQL whose defaults, or whose pooler, differ from those of a new server."""

from __future__ import annotations

import json
import os

import pgbouncer
import psycopg
import pytest
from cluster import Desk
from ledger_processes import claim_in_processes
from sqlalchemy import text

from opencode_tasks.ledger import Ledger


@pytest.mark.slow
@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
def test_the_default_isolation_of_the_database_has_no_effect(empty_postgresql: str, level: str) -> None:
    with psycopg.connect(empty_postgresql, autocommit=True) as connection:
        database = connection.info.dbname
        connection.execute(
            f"alter database \"{database}\" set default_transaction_isolation = '{level}'".encode()
        )
    try:
        with Ledger.open(empty_postgresql) as ledger:
            shown = ledger._database.read(
                lambda opened: opened.execute(text("show transaction_isolation")).scalar_one()
            )
            written = ledger._database.write(
                lambda opened: opened.execute(text("show transaction_isolation")).scalar_one()
            )
        assert (shown, written) == ("read committed", "read committed")
        assert claim_in_processes(empty_postgresql, 3, 0) == ["", "", ""]
    finally:
        with psycopg.connect(empty_postgresql, autocommit=True) as connection:
            connection.execute(f'alter database "{database}" reset default_transaction_isolation'.encode())


def test_no_statement_is_prepared_on_the_server(empty_postgresql: str) -> None:
    with Ledger.open(empty_postgresql) as ledger:
        for _ in range(20):
            ledger._database.read(
                lambda opened: opened.execute(text("select count(*) from runs")).scalar_one()
            )
        prepared = ledger._database.read(
            lambda opened: opened.execute(text("select count(*) from pg_prepared_statements")).scalar_one()
        )
    assert prepared == 0


@pytest.mark.slow
@pytest.mark.scripted
def test_a_run_through_pgbouncer_in_transaction_mode_sends_each_row_once(
    desk: Desk, empty_postgresql: str
) -> None:
    if not pgbouncer.is_installed() and not os.environ.get("CI"):
        pytest.skip(pgbouncer.MISSING)
    prompts = [f"row {number}" for number in range(100)]
    desk.write_csv("in.csv", [{"prompt": prompt} for prompt in prompts])
    with pgbouncer.pgbouncer(empty_postgresql) as url:
        both = [
            desk.start(*desk.arguments("in.csv", "-o", name, "--ledger", url, "--json"))
            for name in ("a.csv", "b.csv")
        ]
        ends = [process.communicate(timeout=240) for process in both]
        assert [process.returncode for process in both] == [0, 0], ends
        assert sorted(desk.provider.prompts()) == sorted(prompts)
        for name in ("a.csv", "b.csv"):
            assert [row["response"] for row in desk.read_csv(name)] == prompts
        [newest, *_] = json.loads(desk.run("runs", "--json", "--ledger", url).stdout)
        assert desk.run("audit", newest["run_id"], "--json", "--ledger", url).summary["faults"] == []
