"""The process of a Prefect server of our own; Prefect itself is not imported here.

A fresh database costs Prefect 3.8 more than half of its start, so a migrated one is kept, by
Prefect's version, in the user's cache and copied.
"""

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
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Self

import httpx

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.binary import cache_dir
from opencode_tasks.system import GuardedProcess
from opencode_tasks.system.startup_timing import Part, startup_timing

START_LIMIT_S = 120.0
# Nothing of the server's outlives it, so it need not end politely.
GRACE_S = 0.5
API_URL = "PREFECT_API_URL"
# Prefect's profile without an address, which holds where none is chosen.
EPHEMERAL = "ephemeral"
_ACTIVE = re.compile(r"^\s*active\s*=\s*[\"']?([^\"'\s]*)", re.MULTILINE)


# Without the garbage collector, which has nothing to find there, loading takes a fifth less.
COMMAND = """
import gc, runpy
gc.disable()
import prefect.server.api.server
gc.freeze()
gc.enable()
runpy.run_module("prefect", run_name="__main__", alter_sys=True)
"""


class LocalServer:
    """A Prefect server with a database of its own, that ends with ``stop`` or with this process."""

    def __init__(self, process: GuardedProcess, url: str, folder: Path) -> None:
        self.url = url
        self._began = time.time()
        self._is_ready = False
        self._is_stopped = False
        self._turn = threading.Lock()
        self._process = process
        self._folder = folder

    @classmethod
    def start(cls) -> Self:
        """Start a server, which is not ready yet. Raises SetupError where its process cannot be started."""
        folder = Path(tempfile.mkdtemp(prefix="oct-prefect-"))
        try:
            if template().exists():
                shutil.copyfile(template(), folder / "prefect.db")
            return cls(*_start(folder), folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def wait(self) -> None:
        """Wait until it answers, in any thread. Raises SetupError where it does not in time."""
        with self._turn:
            if not self._is_ready:
                self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(httpx.HTTPError):
                answer = httpx.get(f"{self.url}/health", timeout=2.0, trust_env=False)
                if answer.status_code == HTTPStatus.OK:
                    self._is_ready = True
                    startup_timing.add([Part("Prefect", self._began, time.time())])
                    _keep_template(self._folder)
                    return
            time.sleep(0.1)
        log = self._folder / "server.log"
        words = log.read_text(errors="replace")[-800:] if log.exists() else ""
        if self._process.poll() is not None and not self._is_stopped:
            # Should its database have been the fault, the next run makes a new one.
            template().unlink(missing_ok=True)
        message = f"the local Prefect server did not start: {words}"
        raise SetupError("unknown", raw_message=message, hint=f"set {API_URL}")

    def stop(self) -> None:
        """End the server and remove its folder."""
        self._is_stopped = True
        self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def make_template(say: Callable[[str], None]) -> None:
    """See that there is a migrated database to copy: start a server once where there is none.

    Without one a run takes longer to start, and nothing else; so a failure is only told.
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


# The addresses that are in the environment before the user's own settings are asked for.
_early: set[str] = set()


def announce(server: LocalServer) -> None:
    """Put a server's address into the environment, for the workers that will be started."""
    _early.add(server.url)
    os.environ[API_URL] = server.url


def is_announced(url: str) -> bool:
    """Whether an address is that of a server which was started for a run and has nothing in it yet."""
    return url in _early


def template() -> Path:
    """Where the database to copy is, for the Prefect that is installed; it need not exist."""
    return cache_dir() / f"prefect-{version('prefect')}.db"


def may_be_configured(environ: Mapping[str, str], folder: Path) -> bool:
    """Whether a Prefect API may be configured, by all the places where Prefect 3.8 looks.

    Prefect alone knows for sure, which takes its loading. False is sure.
    """
    # Prefect's own profile "local" has an address.
    if environ.get("PREFECT_PROFILE", EPHEMERAL) != EPHEMERAL:
        return True
    if environ.get(API_URL) or environ.get("PREFECT_API_KEY"):
        return True
    home = Path(environ.get("PREFECT_HOME") or Path.home() / ".prefect").expanduser()
    profiles = Path(environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    files = (profiles, *(folder / name for name in (".env", "prefect.toml", "pyproject.toml")))
    return any(_speaks_of_an_api(file) for file in files)


def _speaks_of_an_api(file: Path) -> bool:
    try:
        text = file.read_text(encoding="utf-8", errors="replace").lower()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    # These speak of other things, too.
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
    """Copy a new server's database, in which nothing is yet but its schema and block types.

    Without a place to keep it, each run migrates its own.
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
                # A copy must be whole in its one file.
                target.execute("PRAGMA journal_mode = DELETE")
            Path(name).replace(template())
        finally:
            Path(name).unlink(missing_ok=True)
