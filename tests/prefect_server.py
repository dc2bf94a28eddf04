"""Prefect servers of tests, each with a private database."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import psutil

START_LIMIT_S = 120.0
API_URL = "PREFECT_API_URL"
# The folder that the processes of a session share.
SHARED = "OPENCODE_TASKS_TEST_SHARED"
PREFECT = Path(sys.executable).with_name("prefect")


class PrefectServer:
    """A Prefect server with its database in a folder. Killed, it can be started again at the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: Final = free.getsockname()[1]
        self.url: Final = f"http://127.0.0.1:{self._port}/api"
        self._folder: Final = folder
        self._log: Final = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it without waiting for it."""
        self._folder.mkdir(exist_ok=True)
        if not (database := self._folder / "prefect.db").exists():
            shutil.copy(_empty_database(), database)
        args = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(self._port), "--no-ui"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                args, env=_environment(self._folder), cwd=self._folder, stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Wait until it answers."""
        assert self._process is not None
        deadline = time.monotonic() + START_LIMIT_S
        while not self._answers():
            is_running = self._process.poll() is None and time.monotonic() < deadline
            assert is_running, self._log.read_text(errors="replace")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it and its children."""
        assert self._process is not None
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(timeout=20)

    def pids(self) -> set[int]:
        """The ids of its processes."""
        return {process.pid for process in self._processes()}

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        return [*parent.children(recursive=True), parent]

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2.0, trust_env=False).is_success
        except httpx.HTTPError:
            return False


def _environment(home: Path) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }


def _empty_database() -> Path:
    """The database of a new server, made once in a session: its migrations take two thirds of a start."""
    home = Path(os.environ[SHARED]) / "prefect"
    home.mkdir(exist_ok=True)
    made, database = home / "made", home / "prefect.db"
    with made.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The position of the file is that before the wait for its lock.
        if not os.fstat(lock.fileno()).st_size:
            upgrade = [PREFECT, "server", "database", "upgrade", "--yes"]
            subprocess.run(
                upgrade, env=_environment(home), check=True, capture_output=True, timeout=START_LIMIT_S
            )
            lock.write(b"yes")
            lock.flush()
    return database


@contextmanager
def running(server: PrefectServer) -> Generator[PrefectServer]:
    """Start a server, and kill it at the end."""
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


@contextmanager
def prefect_api() -> Generator[str]:
    """The API of a new server, in the settings of this process and in its environment meanwhile."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    folder = Path(tempfile.mkdtemp(prefix="prefect-"))
    try:
        with running(PrefectServer(folder)) as server, temporary_settings({PREFECT_API_URL: server.url}):
            os.environ[API_URL] = server.url
            yield server.url
    finally:
        os.environ.pop(API_URL, None)
        shutil.rmtree(folder, ignore_errors=True)
