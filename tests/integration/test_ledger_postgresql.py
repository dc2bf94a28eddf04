"""Ledger on a PostgreSQL whose defaults, or whose pooler, differ from those of a new server."""

from __future__ import annotations

import psycopg
import pytest
from ledger_processes import claim_in_processes
from sqlalchemy import text

from opencode_tasks.ledger import Ledger


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
