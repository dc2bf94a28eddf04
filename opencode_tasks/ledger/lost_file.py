"""The file of a SQLite ledger that is deleted, moved or replaced while a process has it open.

The process goes on to write to the deleted file, and all that it records is gone when it ends. So a run looks
for the file about every second, stops if it is another one, and writes the content to a new file.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from opencode_tasks.errors import SetupError
from opencode_tasks.ledger.url import make_file, refusal

Identity = tuple[int, int]

# Where this process wrote the content of files that were lost, by their identity.
_kept: dict[Identity, Path] = {}
_lock = threading.Lock()


class LedgerFile:
    """The file of an open SQLite ledger. ``identity`` is its device and its inode."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.path: Path = Path(engine.url.database or "")
        self.identity: Identity | None = _identity(self.path)
        event.listen(engine, "do_connect", self._check_connection)

    @property
    def is_lost(self) -> bool:
        """Whether the file is no longer at its path."""
        return _identity(self.path) != self.identity

    def check(self) -> None:
        """Raise SetupError if the file is lost."""
        if self.is_lost:
            raise refusal(
                f"The ledger {self.path} was deleted, moved or replaced while a run used it.",
                "No further row is sent.",
            )

    def keep(self) -> Path | None:
        """Write the content of a lost file to its path, or beside it if another file is there.

        Returns the path of the copy, which has what was recorded up to the first call for this file; None if
        the file is not lost. Raises SetupError if the copy cannot be written.
        """
        if not self.is_lost or self.identity is None:
            return None
        with _lock:
            if self.identity not in _kept:
                _kept[self.identity] = self._copy()
            return _kept[self.identity]

    def _copy(self) -> Path:
        number, copy = 0, self.path
        while copy.exists():
            number += 1
            copy = self.path.with_name(f"{self.path.stem}.lost-{number}{self.path.suffix}")
        try:
            make_file(copy)
            # A connection of the pool has the lost file open; no new one is made.
            with self._engine.connect() as connection:
                connection.rollback()
                cursor: Any = connection.connection.cursor()
                cursor.execute("VACUUM INTO ?", (str(copy),))
                cursor.close()
        except Exception as error:
            raise refusal(
                f"The ledger {self.path} was deleted, moved or replaced while a run used it, and its content "
                f"cannot be written to {copy}: {error}.",
                "If the file was moved, name it with --ledger.",
            ) from error
        return copy

    def _check_connection(self, *_: Any) -> None:
        """Refuse a new connection, for which SQLite would create an empty file."""
        if self.is_lost:
            raise sqlite3.OperationalError("the file was deleted, moved or replaced")


def lost_file_error(copy: Path, path: Path) -> SetupError:
    """The error of a run whose ledger was lost, and whose content is in a copy."""
    ledger = "" if copy == path else f" --ledger {copy}"
    return refusal(
        f"The ledger {path} was deleted, moved or replaced while a run used it. No further row was sent, and "
        f"what the ledger held was written to {copy}.",
        f"Run opencode-tasks resume{ledger}.",
    )


def _identity(path: Path) -> Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
