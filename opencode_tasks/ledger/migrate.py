"""Bring a ledger's schema up to date, however many processes open it at once."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, Text, column, func, inspect, select, table

from opencode_tasks.ledger.url import refusal

MIGRATIONS = Path(__file__).parent / "migrations"
# Not Alembic's own name: Prefect keeps an ``alembic_version`` in a database that we may share.
VERSION_TABLE = "opencode_tasks_version"
ADVISORY_LOCK = 7_164_203_917

# Alembic's context is one per process.
_alembic = threading.Lock()


def upgrade(engine: Engine) -> None:
    """Create or upgrade the schema; nothing happens where it is current.

    Raises SetupError when the database was written by a newer version of this package.
    """
    with _alembic, _alone(engine):
        with engine.connect() as connection:
            if _is_current(connection):
                return
        with engine.execution_options(ledger_write=True).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
            if not _is_current(connection):
                _migrate(connection)


def revisions() -> list[str]:
    """The schema's revisions, oldest first: the numbers that the names of the migrations begin with."""
    return sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _is_current(connection: Connection) -> bool:
    found: set[str] = set()
    if inspect(connection).has_table(VERSION_TABLE):
        number = column("version_num", Text)
        found = set(connection.scalars(select(number).select_from(table(VERSION_TABLE, number))))
    known = revisions()
    if not found <= set(known):
        raise refusal(
            f"The ledger has schema {', '.join(sorted(found - set(known)))}, newer than we know.",
            "Upgrade opencode-tasks here, or name another ledger.",
        )
    return found == {known[-1]}


def _migrate(connection: Connection) -> None:
    # Loaded only here: it takes a fifth of a second, in every process that opens a ledger.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    command.upgrade(config, "head")


@contextmanager
def _alone(engine: Engine) -> Generator[None]:
    """On SQLite, keep other processes from opening the file meanwhile; PostgreSQL locks for itself.

    The lock is on the folder, since to close the file itself would drop SQLite's own locks on it.
    """
    if engine.dialect.name != "sqlite" or engine.url.database is None:
        yield
        return
    folder = os.open(Path(engine.url.database).parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        # The switch to the write-ahead log stays in the file; two at once would find it locked.
        with engine.connect() as connection:
            raw = connection.connection.cursor()
            raw.execute("PRAGMA journal_mode = WAL")
            raw.close()
        yield
    finally:
        os.close(folder)
