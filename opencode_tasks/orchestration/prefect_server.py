"""A Prefect server for one run, if the user has configured none.

Prefect itself is imported only when its settings are needed, so that the server starts while Prefect
is loaded. A new database takes more than half of the start of Prefect 3.8, so a migrated one is kept
in the user's cache, by Prefect's version, and copied.
"""

# ruff: noqa: PLC0415  see above

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Self

import httpx

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.binary import cache_dir
from opencode_tasks.system import GuardedProcess, undisturbed
from opencode_tasks.system.folders import home
from opencode_tasks.system.loopback import loopback_bypass
from opencode_tasks.system.startup_times import Part, startup_timing

START_LIMIT_S = 120.0
LOG_LIMIT = 800
# Nothing of the server is needed after its end.
GRACE_S = 0.5
API_URL = "PREFECT_API_URL"
# Prefect's default profile, which has no API URL.
EPHEMERAL = "ephemeral"
_ACTIVE = re.compile(r"^\s*active\s*=\s*[\"']?([^\"'\s]*)", re.MULTILINE)


# Without the garbage collector, loading takes a fifth less time.
COMMAND = """
import gc, runpy
gc.disable()
import prefect.server.api.server
gc.freeze()
gc.enable()
runpy.run_module("prefect", run_name="__main__", alter_sys=True)
"""


_is_private: ContextVar[bool] = ContextVar("is_private", default=False)


class LocalServer:
    """A Prefect server with a private database. It ends with ``stop``, or with this process."""

    def __init__(self, process: GuardedProcess, url: str, folder: Path) -> None:
        self.url = url
        self._started_at = time.time()
        self._is_ready = False
        self._is_stopped = False
        self._lock = threading.Lock()
        self._process = process
        self._folder = folder

    @classmethod
    def start(cls) -> Self:
        """Start a server without waiting for it. Raises SetupError if its process cannot be started."""
        # Prefect's client reads the proxy from the environment of this process.
        os.environ.update(loopback_bypass(os.environ))
        with undisturbed():
            folder = Path(tempfile.mkdtemp(prefix="oct-prefect-"))
            try:
                if template().exists():
                    shutil.copyfile(template(), folder / "prefect.db")
                return cls(*_start(folder), folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise

    def wait(self) -> None:
        """Wait until the server answers, in any thread. Raises SetupError if it does not within 120 s."""
        with self._lock:
            if not self._is_ready:
                self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(httpx.HTTPError):
                answer = httpx.get(f"{self.url}/health", timeout=2.0, trust_env=False)
                if answer.status_code == HTTPStatus.OK:
                    self._is_ready = True
                    startup_timing.add([Part("Prefect", self._started_at, time.time())])
                    _keep_template(self._folder)
                    return
            time.sleep(0.1)
        log = self._folder / "server.log"
        log_text = log.read_text(errors="replace")[-LOG_LIMIT:] if log.exists() else ""
        if self._process.poll() is not None and not self._is_stopped:
            # If its database was the cause, the next run makes a new one.
            template().unlink(missing_ok=True)
        message = f"the local Prefect server did not start: {log_text}"
        raise SetupError("unknown", raw_message=message, hint=f"set {API_URL}")

    def stop(self) -> None:
        """End the server and remove its folder."""
        self._is_stopped = True
        self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def make_template(say: Callable[[str], None]) -> None:
    """Make the migrated database to copy, if there is none: starts a server once.

    Without it a run takes longer to start, and that is all: a failure is only reported by ``say``.
    """
    if template().exists():
        return
    say("Prefect: preparing a database for the server of a run")
    try:
        server = LocalServer.start()
        try:
            server.wait()
        finally:
            server.stop()
    except SetupError as error:
        say(error.raw_message)


# URLs of servers that were started before the user's own settings are known.
_announced: set[str] = set()


def announce(server: LocalServer) -> None:
    """Put the server's URL into the environment, for the worker processes that are started next."""
    _announced.add(server.url)
    os.environ[API_URL] = server.url


def configured_api() -> str | None:
    """URL of the Prefect API that the user has configured; None without one. Imports Prefect."""
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    return None if not url or str(url) in _announced else str(url)


def is_private_server() -> bool:
    """Whether this process uses a Prefect server that was started for it alone."""
    return _is_private.get()


def limit_retries() -> None:
    """Repeat failed requests to the Prefect API once from now on, in the whole process.

    Prefect 3.8 repeats them for a minute and more, and reports the end of a flow run after a stop too.
    """
    from prefect.settings import get_current_settings

    get_current_settings().client.max_retries = 1


@contextmanager
def prefect_api(say: Callable[[str], None], started: LocalServer | None = None) -> Generator[str]:
    """URL of a Prefect API for this process and its workers.

    The API of the server ``started`` early; else the configured one (environment or profile), if
    there is one; else that of a new server with a private database, which ends with the context or
    with this process. Raises SetupError if the server does not answer in time.
    """
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_LOGGING_TO_API_ENABLED,
        get_current_settings,
        temporary_settings,
    )

    configured = get_current_settings().api.url
    if started is None and configured:
        yield configured
        return
    token = _is_private.set(True)
    server: LocalServer | None = started
    try:
        server = server or LocalServer.start()
        server.wait()
        hint = f"set {API_URL} to use your own and keep the history"
        say(f"Prefect: a server for this run alone, {server.url} ({hint})")
        os.environ[API_URL] = server.url
        # Log records would be sent after the end of the server.
        with temporary_settings({PREFECT_API_URL: server.url, PREFECT_LOGGING_TO_API_ENABLED: False}):
            yield server.url
    finally:
        os.environ.pop(API_URL, None)
        _is_private.reset(token)
        if server is not None:
            server.stop()


def template() -> Path:
    """Path of the database to copy, for the installed version of Prefect; it may not exist."""
    return cache_dir() / f"prefect-{version('prefect')}.db"


def may_be_configured(environ: Mapping[str, str], folder: Path) -> bool:
    """Whether a Prefect API may be configured, from all the places that Prefect 3.8 reads.

    False is certain. True is not: only Prefect knows, and loading it takes seconds.
    """
    # Prefect's profile "local" has an API URL.
    if environ.get("PREFECT_PROFILE", EPHEMERAL) != EPHEMERAL:
        return True
    if environ.get(API_URL) or environ.get("PREFECT_API_KEY"):
        return True
    prefect_home = Path(environ.get("PREFECT_HOME") or home() / ".prefect").expanduser()
    profiles = Path(environ.get("PREFECT_PROFILES_PATH") or prefect_home / "profiles.toml").expanduser()
    files = (profiles, *(folder / name for name in (".env", "prefect.toml", "pyproject.toml")))
    return any(_may_name_an_api(file) for file in files)


def _may_name_an_api(file: Path) -> bool:
    try:
        text = file.read_text(encoding="utf-8", errors="replace").lower()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    # These files configure other programs, too.
    if {"pyproject.toml": "tool.prefect", ".env": "prefect"}.get(file.name, "") not in text:
        return False
    return "url" in text or any(name != EPHEMERAL for name in _ACTIVE.findall(text))


def _start(folder: Path) -> tuple[GuardedProcess, str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(folder),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder}/prefect.db",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "TMPDIR": str(folder),
    }
    args = [sys.executable, "-c", COMMAND, "server", "start"]
    args += ["--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    process = GuardedProcess.start(
        args, env=env, cwd=folder, stdout=folder / "server.log", remove=[folder], grace_s=GRACE_S
    )
    return process, f"http://127.0.0.1:{port}/api"


def _keep_template(folder: Path) -> None:
    """Copy the database of a new server, which holds only its schema and block types.

    If it cannot be kept, each run migrates a new one.
    """
    if template().exists():
        return
    with suppress(OSError, sqlite3.Error):
        cache_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="prefect-", suffix=".new", dir=cache_dir())
        os.close(descriptor)
        try:
            with (
                closing(sqlite3.connect(folder / "prefect.db")) as source,
                closing(sqlite3.connect(name)) as target,
            ):
                source.backup(target)
                # The copy must be complete in one file.
                target.execute("PRAGMA journal_mode = DELETE")
            Path(name).replace(template())
        finally:
            Path(name).unlink(missing_ok=True)
