"""``Ledger``: the database of runs, rows, attempts and costs.

Each method is one transaction. Every write is idempotent: repeating it changes nothing. Money is in
pico-dollars, times are aware UTC and passed in. Thread-safe; each process opens the ledger by URL.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from opencode_tasks.errors import SetupError
from opencode_tasks.ledger.attempts import Attempts
from opencode_tasks.ledger.audit_queries import Audits
from opencode_tasks.ledger.budgets import Budgets
from opencode_tasks.ledger.canaries import Canaries
from opencode_tasks.ledger.concurrency import Concurrency
from opencode_tasks.ledger.continued_sessions import ContinuedSessions
from opencode_tasks.ledger.database import Database, open_database
from opencode_tasks.ledger.drivers import Drivers
from opencode_tasks.ledger.ended_rows import EndedRows
from opencode_tasks.ledger.gates import Gates
from opencode_tasks.ledger.gold import Gold
from opencode_tasks.ledger.imported_sessions import Imports
from opencode_tasks.ledger.incremental_series import Series
from opencode_tasks.ledger.lost_file import lost_file_error
from opencode_tasks.ledger.queue import Queue
from opencode_tasks.ledger.report_queries import ReportQueries
from opencode_tasks.ledger.result_tables import Results
from opencode_tasks.ledger.retention import Retention
from opencode_tasks.ledger.reviews import Reviews
from opencode_tasks.ledger.row_list import RowList
from opencode_tasks.ledger.rows import Rows
from opencode_tasks.ledger.runs import Runs
from opencode_tasks.ledger.session_sets import SessionSets
from opencode_tasks.ledger.votes import Votes


class Ledger:
    """An open ledger, with its operations in groups. A context manager that closes it.

    Engine: ``runs``, ``drivers``, ``rows``, ``queue``, ``attempts``, ``continued``, ``gates``, ``budgets``,
    ``concurrency``, ``series``, ``gold``, ``votes``, ``canaries`` and ``reviews``. Readers: ``results``,
    ``row_list``, ``session_sets`` and ``audits`` (of one run), ``reports`` (over all) and ``ended_rows``
    (examples for estimates). Upkeep: ``imports`` and ``retention``.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.runs: Final = Runs(database)
        self.drivers: Final = Drivers(database)
        self.rows: Final = Rows(database)
        self.queue: Final = Queue(database)
        self.attempts: Final = Attempts(database)
        self.continued: Final = ContinuedSessions(database)
        self.gates: Final = Gates(database)
        self.budgets: Final = Budgets(database)
        self.concurrency: Final = Concurrency(database)
        self.series: Final = Series(database)
        self.gold: Final = Gold(database)
        self.votes: Final = Votes(database)
        self.canaries: Final = Canaries(database)
        self.reviews: Final = Reviews(database)
        self.ended_rows: Final = EndedRows(database)
        self.results: Final = Results(database)
        self.row_list: Final = RowList(database)
        self.session_sets: Final = SessionSets(database)
        self.reports: Final = ReportQueries(database)
        self.audits: Final = Audits(database)
        self.imports: Final = Imports(database)
        self.retention: Final = Retention(database)

    @classmethod
    def open(cls, url: str) -> Ledger:
        """Open the ledger at a path, ``sqlite:///…`` or ``postgresql://…``; create or upgrade it if needed.

        Raises SetupError with a hint if that is not possible: a network file system, an unreachable
        server, a schema newer than this package.
        """
        return cls(open_database(url))

    @property
    def url(self) -> str:
        """The URL by which another process opens the same ledger, with the password."""
        return self._database.engine.url.render_as_string(hide_password=False)

    def check_file(self) -> None:
        """Raise SetupError if the file of a SQLite ledger was deleted, moved or replaced."""
        if self._database.file is not None:
            self._database.file.check()

    def keep_lost_file(self) -> SetupError | None:
        """If the file of a SQLite ledger was deleted, moved or replaced, write its content to a new file.

        Returns the error that names the new file; None if the file is at its place. Raises SetupError if the
        content cannot be written.
        """
        file = self._database.file
        copy = None if file is None else file.keep()
        return None if file is None or copy is None else lost_file_error(copy, file.path)

    def close(self) -> None:
        """Close all connections, after the calls of other threads. Later calls raise RuntimeError."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
