"""Open a ledger's database and run transactions on it, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from opencode_tasks.ledger.migrate import upgrade
from opencode_tasks.ledger.types import json_text
from opencode_tasks.ledger.url import make_file, read_url, refusal

T = TypeVar("T")

BUSY_TIMEOUT_S = 30
CACHE_KIB = 16 * 1024
TRIES = 6
WAIT_S = 0.5
# PostgreSQL's serialization_failure and deadlock_detected: the transaction may be run again.
RERUNNABLE = ("40001", "40P01")


class Database:
    """An open database. Thread-safe; a fork or another process must open its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writing = engine.execution_options(ledger_write=True)
        # Threads of one process queue here instead of in SQLite's busy loop, which sleeps.
        self._turn = threading.Lock() if engine.dialect.name == "sqlite" else nullcontext()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction that only reads."""
        with self.engine.connect() as connection:
            return work(connection)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one write transaction; so it must be repeatable.

        It is run again after a deadlock, a lost connection or a locked database: what it records
        has been paid for.
        """
        for number in range(TRIES - 1):
            try:
                return self._write_once(work)
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) not in RERUNNABLE:
                    time.sleep(WAIT_S * 2**number)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in RERUNNABLE:
                    raise
        return self._write_once(work)

    def give_back_space(self) -> None:
        """Overwrite on the disk what was deleted; PostgreSQL does so by itself, in time."""
        if self.engine.dialect.name != "sqlite":
            return
        with self._turn, self.engine.connect() as connection:
            raw: Any = connection.connection.cursor()
            # Outside a transaction, as SQLite asks.
            connection.rollback()
            raw.execute("VACUUM")
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raw.close()

    def _write_once(self, work: Callable[[Connection], T]) -> T:
        with self._turn, self._writing.begin() as connection:
            return work(connection)


def open_database(text: str) -> Database:
    """The database at a path or URL, created or upgraded where needed.

    Raises SetupError where that cannot be: its message says what to do.
    """
    url = read_url(text)
    if url.get_backend_name() == "sqlite":
        make_file(Path(url.database or ""))
    try:
        engine = _engine(url)
    except ModuleNotFoundError as error:
        raise refusal(
            f"A ledger in PostgreSQL needs {error.name}.", "pip install 'opencode-tasks[postgres]'"
        ) from error
    try:
        upgrade(engine)
    except SQLAlchemyError as error:
        engine.dispose()
        cause = str(getattr(error, "orig", None) or error).strip()
        raise refusal(
            f"The ledger {url.render_as_string()} cannot be opened: {cause}.",
            "Check that it is reachable, ours and writable.",
        ) from error
    except BaseException:
        engine.dispose()
        raise
    return Database(engine)


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return create_engine(url, json_serializer=json_text, pool_pre_ping=True, pool_timeout=60)
    engine = create_engine(
        url,
        json_serializer=json_text,
        pool_timeout=60,
        # The connection that was used last has the pages that are wanted next.
        pool_use_lifo=True,
        connect_args={"timeout": BUSY_TIMEOUT_S},
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _record: Any) -> None:
    # We begin transactions ourselves. A killed process loses nothing with NORMAL; a power cut may
    # take the last commits, and the rows of these are asked again.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous = NORMAL")
    # Keys are random, so with many rows every write touches pages all over the file.
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")


def _begin(connection: Connection) -> None:
    # A transaction that reads and then writes could not wait for its turn, it would fail.
    writes = connection.get_execution_options().get("ledger_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """The dialect's own INSERT, which knows ON CONFLICT."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
