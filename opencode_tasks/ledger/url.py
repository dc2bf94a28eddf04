"""Address of a ledger: the accepted forms of its URL, and the checks on its file.

SQLite's write-ahead log shares memory between processes and therefore does not work on a network
file system (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.errors import SetupError
from opencode_tasks.settings import settings
from opencode_tasks.system.folders import data_folder
from opencode_tasks.system.mounts import shared_file_system

POSTGRES_DRIVER = "postgresql+psycopg"
POSTGRES_NAMES = ("postgres", "postgresql", POSTGRES_DRIVER)


def refusal(message: str, hint: str) -> SetupError:
    """A SetupError about the ledger whose message ends with the hint."""
    return SetupError("unknown", raw_message=f"{message} {hint}", hint=hint)


def read_url(text: str) -> URL:
    """Parse a path, ``sqlite:///…`` or ``postgresql://…``.

    The result names the driver that this package uses and an absolute path. Raises SetupError for
    any other address.
    """
    if "://" not in text:
        return _sqlite(text)
    try:
        url = make_url(text)
    except ArgumentError:
        raise refusal("The ledger's URL cannot be read.", "Write a path or postgresql://….") from None
    if url.drivername in POSTGRES_NAMES:
        return url.set(drivername=POSTGRES_DRIVER)
    if url.get_backend_name() == "sqlite":
        return _sqlite(url.database or "")
    raise refusal(
        f"A ledger cannot be stored in {url.drivername}.", "Use a path (SQLite) or postgresql:// (psycopg)."
    )


def is_there(text: str) -> bool:
    """Whether the file of a ledger exists. True for PostgreSQL, since only its server knows."""
    url = read_url(text)
    return url.get_backend_name() != "sqlite" or Path(url.database or "").exists()


def shown_url(url: str) -> str:
    """The URL of a ledger for messages, with the password hidden."""
    return make_url(url).render_as_string(hide_password=True)


def default_ledger() -> str:
    """Path or URL of the ledger of the settings; a SQLite file in the user's data folder if none is set."""
    return settings().ledger or str(data_folder() / "ledger.db")


def ledger_argument(name: str | None) -> str:
    """The option that names a ledger, with a space before it, for a command that a message shows.

    ``name`` is what the option of a run named: a path, a URL or a block, or None. Empty for the ledger of the
    settings, which a command uses anyway. A password is hidden.
    """
    if name is None or name == settings().ledger:
        return ""
    shown = without_url_secrets(name) if "://" in name else str(Path(name).expanduser().resolve())
    return f" --ledger {shlex.quote(shown)}"


def _sqlite(text: str) -> URL:
    if text in ("", ":memory:"):
        raise refusal("A ledger in memory would be lost with its process.", "Name a file, such as ledger.db.")
    return URL.create("sqlite", database=str(Path(text).expanduser().resolve()))


def make_file(path: Path) -> None:
    """Create the file of a ledger and its folders if they do not exist, readable by their owner only.

    Raises SetupError on a network file system, and if the file cannot be created or is a folder.
    """
    kind = shared_file_system(path)
    if kind is not None and not settings().shared_file_systems:
        raise refusal(
            f"The ledger {path} is on a network or shared file system ({kind}), on which SQLite loses data.",
            "Put it on a local disk (--ledger PATH), or use PostgreSQL if several machines write to it. If "
            "locks and shared memory work there, set OPENCODE_TASKS_SHARED_FILE_SYSTEMS=true.",
        )
    try:
        _make_folder(path.parent)
        # Exclusive, since closing a file that SQLite has open in this process drops SQLite's locks.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if path.is_dir():
            raise refusal(f"The ledger {path} is a folder.", "Name a file in it.") from None
    except OSError as error:
        raise refusal(
            f"The ledger {path} cannot be created: {error.strerror}.",
            "Name a file to which you may write, with --ledger PATH or OPENCODE_TASKS_LEDGER.",
        ) from error


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
