"""Open the database of a ledger and run transactions on it, on SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from opencode_tasks.domain.extras import install_hint
from opencode_tasks.errors import SetupError
from opencode_tasks.ledger.column_types import json_text
from opencode_tasks.ledger.lost_file import LedgerFile
from opencode_tasks.ledger.migrate import upgrade
from opencode_tasks.ledger.url import make_file, read_url, refusal

T = TypeVar("T")

BUSY_TIMEOUT_S = 30
CACHE_KIB = 4 * 1024
# A server that restarts or fails over is back within this time.
SERVER_OUTAGE_S = 60.0
# Another process has the lock on a SQLite file for this long at most, as in a VACUUM of a large ledger.
LONG_LOCK_S = 180.0
# A full disk, or one that fails, may recover.
DISK_FAULT_S = 15.0
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
        self.file: LedgerFile | None = LedgerFile(engine) if engine.dialect.name == "sqlite" else None
        self._write_engine = engine.execution_options(ledger_write=True)
        # Threads of one process wait here and not in SQLite's busy loop, which sleeps.
        self._write_lock = threading.Lock() if engine.dialect.name == "sqlite" else nullcontext()
        # Whether the last transaction found no database: the next one does not wait for it again.
        self._is_lost = False
        self._is_closed = False
        self._calls = 0
        self._call_ended = threading.Condition()

    def close(self) -> None:
        """Close all connections, after the transactions of other threads. Later ones raise RuntimeError.

        A thread may outlive the one that opened the ledger, as the call of a cancelled task does.
        """
        with self._call_ended:
            self._is_closed = True
            self._call_ended.wait_for(lambda: self._calls == 0)
        self.engine.dispose()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction that only reads, and repeat it as ``write`` does."""
        with self._call():
            return self._repeated(self._read_once, work)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one write transaction. It must be repeatable.

        It runs again after a deadlock, and while the database cannot be reached or is locked, since what
        it records is already paid for. After a minute (a locked file: three) it raises SetupError.
        """
        with self._call():
            return self._repeated(self._write_once, work)

    def reclaim_space(self) -> None:
        """Overwrite deleted data on the disk. PostgreSQL does that itself, later."""
        if self.engine.dialect.name != "sqlite":
            return
        with self._call(), self._write_lock, self.engine.connect() as connection:
            cursor: Any = connection.connection.cursor()
            # SQLite allows VACUUM outside a transaction only.
            connection.rollback()
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.close()

    @contextmanager
    def _call(self) -> Generator[None]:
        with self._call_ended:
            if self._is_closed:
                raise RuntimeError("the ledger is closed")
            self._calls += 1
        try:
            yield
        finally:
            with self._call_ended:
                self._calls -= 1
                self._call_ended.notify_all()

    def _repeated(self, once: Callable[[Callable[[Connection], T]], T], work: Callable[[Connection], T]) -> T:
        started, backoff_s = time.monotonic(), FIRST_BACKOFF_S
        while True:
            try:
                result = once(work)
            except DBAPIError as error:
                limit_s = _repeatable_for_s(error)
                if limit_s is None:
                    raise
                if self._is_lost or time.monotonic() - started + backoff_s > limit_s:
                    self._is_lost = True
                    raise self._unreachable(error) from error
                if _state(error) == READ_ONLY:
                    self.engine.dispose()
                if _state(error) not in REPEATABLE_ERRORS:
                    time.sleep(backoff_s)
                    backoff_s = min(MAX_BACKOFF_S, 2 * backoff_s)
            else:
                self._is_lost = False
                return result

    def _unreachable(self, error: DBAPIError) -> SetupError:
        cause = " ".join(str(error.orig).split())
        return refusal(
            f"The ledger {self.engine.url.render_as_string()} cannot be reached: {cause}.",
            "Make it reachable again, then run opencode-tasks resume.",
        )

    def _read_once(self, work: Callable[[Connection], T]) -> T:
        with self.engine.connect() as connection:
            return work(connection)

    def _write_once(self, work: Callable[[Connection], T]) -> T:
        with self._write_lock, self._write_engine.begin() as connection:
            return work(connection)


def _state(error: DBAPIError) -> str | None:
    """PostgreSQL's code of an error; None on SQLite and for a lost connection."""
    return getattr(error.orig, "sqlstate", None)


def _repeatable_for_s(error: DBAPIError) -> float | None:
    """Seconds for which a transaction is repeated after an error; None if that cannot help."""
    if _state(error) in (*REPEATABLE_ERRORS, READ_ONLY) or error.connection_invalidated:
        return SERVER_OUTAGE_S
    if not isinstance(error, OperationalError):
        return None
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is None:
        return SERVER_OUTAGE_S
    # The lower byte is the kind of the error (https://www.sqlite.org/rescode.html).
    return LONG_LOCK_S if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) else DISK_FAULT_S


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
        raise refusal(f"A ledger in PostgreSQL needs {error.name}.", install_hint("postgres")) from error
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
        return create_engine(
            url,
            json_serializer=json_text,
            pool_pre_ping=True,
            pool_timeout=60,
            # Locked rows are read again after a wait, whatever the default of the server or the role is.
            isolation_level="READ COMMITTED",
            # A pooler such as PgBouncer may give each transaction another connection of the server.
            connect_args={"prepare_threshold": None},
        )
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
