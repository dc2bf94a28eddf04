"""Bring a ledger's schema up to date, however many processes open it at once."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, func, select

from opencode_tasks.ledger.place import refusal

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
        config = Config()
        folder = str(Path(__file__).parent / "migrations")
        config.set_main_option("script_location", folder.replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        scripts = ScriptDirectory.from_config(config)
        with engine.connect() as connection:
            if _is_current(connection, scripts):
                return
        with engine.execution_options(ledger_write=True).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
            if not _is_current(connection, scripts):
                config.attributes["connection"] = connection
                config.attributes["version_table"] = VERSION_TABLE
                command.upgrade(config, "head")


def _is_current(connection: Connection, scripts: ScriptDirectory) -> bool:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    found = set(context.get_current_heads())
    known = {script.revision for script in scripts.walk_revisions()}
    if not found <= known:
        raise refusal(
            f"The ledger has schema {', '.join(sorted(found - known))}, newer than we know.",
            "Upgrade opencode-tasks here, or name another ledger.",
        )
    return found == set(scripts.get_heads())


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
