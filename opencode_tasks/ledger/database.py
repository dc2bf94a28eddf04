"""Open the database of a ledger and run transactions on it, on SQLite and PostgreSQL."""

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

from opencode_tasks.ledger.column_types import json_text
from opencode_tasks.ledger.migrate import upgrade
from opencode_tasks.ledger.url import make_file, read_url, refusal

T = TypeVar("T")

BUSY_TIMEOUT_S = 30
CACHE_KIB = 16 * 1024
# A server that restarts or fails over is back within this time.
MAX_OUTAGE_S = 60.0
FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 4.0
# PostgreSQL's serialization_failure and deadlock_detected: the transaction may run again at once.
REPEATABLE_ERRORS = ("40001", "40P01")
# PostgreSQL's read_only_sql_transaction: after a fail-over, the connection leads to the old server.
READ_ONLY = "25006"


class Database:
    """An open database. Thread-safe; another process (also a fork) must open it itself."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._write_engine = engine.execution_options(ledger_write=True)
        # Threads of one process wait here and not in SQLite's busy loop, which sleeps.
        self._write_lock = threading.Lock() if engine.dialect.name == "sqlite" else nullcontext()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction that only reads. It must be repeatable."""
        return self._repeated(self._read_once, work)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one write transaction. It must be repeatable.

        It runs again after a deadlock, and while the database cannot be reached or is locked, since what
        it records is already paid for. After a minute of that, the last error is raised.
        """
        return self._repeated(self._write_once, work)

    def reclaim_space(self) -> None:
        """Overwrite deleted data on the disk. PostgreSQL does that itself, later."""
        if self.engine.dialect.name != "sqlite":
            return
        with self._write_lock, self.engine.connect() as connection:
            cursor: Any = connection.connection.cursor()
            # SQLite allows VACUUM outside a transaction only.
            connection.rollback()
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.close()

    def _repeated(self, once: Callable[[Callable[[Connection], T]], T], work: Callable[[Connection], T]) -> T:
        deadline, backoff_s = time.monotonic() + MAX_OUTAGE_S, FIRST_BACKOFF_S
        while True:
            try:
                return once(work)
            except DBAPIError as error:
                state = getattr(error.orig, "sqlstate", None)
                if state in REPEATABLE_ERRORS and time.monotonic() < deadline:
                    continue
                is_away = isinstance(error, OperationalError) or error.connection_invalidated
                if not (is_away or state == READ_ONLY) or time.monotonic() + backoff_s > deadline:
                    raise
            if state == READ_ONLY:
                self.engine.dispose()
            time.sleep(backoff_s)
            backoff_s = min(MAX_BACKOFF_S, 2 * backoff_s)

    def _read_once(self, work: Callable[[Connection], T]) -> T:
        with self.engine.connect() as connection:
            return work(connection)

    def _write_once(self, work: Callable[[Connection], T]) -> T:
        with self._write_lock, self._write_engine.begin() as connection:
            return work(connection)


def open_database(text: str) -> Database:
    """Open the database at a path or URL; create it or upgrade its schema if needed.

    Raises SetupError if that is not possible; its message says what to do.
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
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        raise refusal(
            f"The ledger {url.render_as_string()} cannot be opened: {cause}.",
            "Check that it is reachable, that it is a ledger, and that you may write to it.",
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
        # The connection that was used last has the wanted pages in its cache.
        pool_use_lifo=True,
        connect_args={"timeout": BUSY_TIMEOUT_S},
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, _record: Any) -> None:
    # This module begins transactions itself. With NORMAL a killed process loses nothing; a power
    # failure may lose the last commits, and their rows are sent again.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous = NORMAL")
    # Keys are random, so with many rows each write changes pages all over the file.
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")


def _on_begin(connection: Connection) -> None:
    # A transaction that reads first and writes later fails if another one writes in between.
    writes = connection.get_execution_options().get("ledger_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """The INSERT of the connection's dialect, which supports ON CONFLICT."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
