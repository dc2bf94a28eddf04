"""Create or upgrade the schema of a ledger, also if several processes open it at the same time."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, Text, column, delete, func, inspect, select, table
from sqlalchemy.exc import DBAPIError

from opencode_tasks.ledger.migrations import unreleased
from opencode_tasks.ledger.schema import ledger_info
from opencode_tasks.ledger.url import refusal
from opencode_tasks.system.fork import free_after_fork

MIGRATIONS = Path(__file__).parent / "migrations"
# Not Alembic's default name: Prefect has an ``alembic_version`` in a database that may be shared.
VERSION_TABLE = "opencode_tasks_version"
ADVISORY_LOCK = 7_164_203_917
# PostgreSQL's dependent_objects_still_exist.
DEPENDENT_OBJECTS = "2BP01"

# Increase it when a view changes: a ledger with a lower version gets the new views when it is opened.
VIEWS_VERSION = 6

# Alembic has one context for each process.
_alembic_lock = free_after_fork(threading.Lock())


def upgrade(engine: Engine) -> None:
    """Create or upgrade tables and views; a current schema is not changed.

    Raises SetupError if a newer version of this package wrote the database.
    """
    with _alembic_lock, _file_lock(engine):
        with engine.connect() as connection:
            if _is_current(connection):
                return
        with engine.execution_options(ledger_write=True).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
            if not _is_current(connection):
                _upgrade(connection)


def revisions() -> list[str]:
    """The revisions of the schema, oldest first: the numbers at the start of the file names."""
    return sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _revision(connection: Connection) -> str | None:
    """The revision of the database; None if it is empty."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    number = column("version_num", Text)
    return connection.scalars(select(number).select_from(table(VERSION_TABLE, number))).one_or_none()


def _is_current(connection: Connection) -> bool:
    found = _revision(connection)
    known = revisions()
    if found is not None and found not in (*unreleased.REVISIONS, *known):
        raise refusal(
            f"The ledger {_shown(connection)} has schema {found}, "
            f"but this version of opencode-tasks only knows schemas up to {known[-1]}.",
            "Upgrade opencode-tasks here, or name another ledger.",
        )
    # Views with a higher version are those of a newer package with the same tables: they stay.
    return found == known[-1] and _views_version(connection) >= VIEWS_VERSION


def _shown(connection: Connection) -> str:
    return connection.engine.url.render_as_string()


def _views_version(connection: Connection) -> int:
    """The version of the views in the database; 0 before they are created."""
    query = select(ledger_info.c.value).where(ledger_info.c.name == "views")
    return int(connection.execute(query).scalar_one_or_none() or 0)


def _upgrade(connection: Connection) -> None:
    """Upgrade the tables, and create the views again: their queries are those of this package."""
    # Imported only if needed, since every process opens a ledger: views and Alembic take some 0.2 s.
    from opencode_tasks.ledger.views import create_views, drop_views, readers_of_views

    found, readers = _revision(connection), readers_of_views(connection)
    try:
        drop_views(connection)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != DEPENDENT_OBJECTS:
            raise
        raise refusal(
            f"The views of the ledger {_shown(connection)} cannot be replaced, since other views use them.",
            "Drop those views, open the ledger, and create them again.",
        ) from error
    if found in unreleased.REVISIONS:
        unreleased.upgrade(connection, VERSION_TABLE, lambda revision: _run_revisions(connection, revision))
    if found != revisions()[-1]:
        _run_revisions(connection, "head")
    create_views(connection, readers)
    connection.execute(delete(ledger_info).where(ledger_info.c.name == "views"))
    connection.execute(ledger_info.insert().values(name="views", value=str(VIEWS_VERSION)))


def _run_revisions(connection: Connection, target: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    command.upgrade(config, target)


@contextmanager
def _file_lock(engine: Engine) -> Generator[None]:
    """On SQLite, keep other processes from opening the file. PostgreSQL has its own lock.

    The lock is on the folder, since closing the file would drop SQLite's own locks on it.
    """
    if engine.dialect.name != "sqlite" or engine.url.database is None:
        yield
        return
    folder = os.open(Path(engine.url.database).parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        # The file keeps the write-ahead log; two processes that switch to it at once would fail.
        with engine.connect() as connection:
            cursor = connection.connection.cursor()
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.close()
        yield
    finally:
        os.close(folder)
