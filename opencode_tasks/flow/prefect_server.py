"""A Prefect server of our own, for a run by hand where none is configured."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from http import HTTPStatus
from pathlib import Path

import httpx
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_LOGGING_TO_API_ENABLED,
    get_current_settings,
    temporary_settings,
)

from opencode_tasks.errors import SetupError
from opencode_tasks.process import GuardedProcess

START_LIMIT_S = 120.0
API_URL = PREFECT_API_URL.name

_is_our_own: ContextVar[bool] = ContextVar("is_our_own", default=False)


def is_our_own() -> bool:
    """Whether this process talks to a server that was started for it alone."""
    return _is_our_own.get()


@contextmanager
def prefect_api(say: Callable[[str], None]) -> Generator[str]:
    """The URL of a Prefect API for this process and its workers.

    The configured one (environment or profile) where there is one; else a server is started,
    with a database of its own, that ends with the context or with this process. Raises SetupError
    where it does not answer in time.
    """
    configured = get_current_settings().api.url
    if configured:
        yield configured
        return
    is_own = _is_our_own.set(True)
    folder = Path(tempfile.mkdtemp(prefix="oct-prefect-"))
    process: GuardedProcess | None = None
    try:
        process, url = _start(folder)
        _wait_until_healthy(process, url, folder)
        hint = f"set {API_URL} to use your own and keep the history"
        say(f"Prefect: a server for this run alone, {url} ({hint})")
        os.environ[API_URL] = url
        # Log records would be sent on after the server's end.
        with temporary_settings({PREFECT_API_URL: url, PREFECT_LOGGING_TO_API_ENABLED: False}):
            yield url
    finally:
        os.environ.pop(API_URL, None)
        _is_our_own.reset(is_own)
        if process is not None:
            process.stop()
        shutil.rmtree(folder, ignore_errors=True)


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
    args = [sys.executable, "-m", "prefect", "server", "start"]
    args += ["--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    process = GuardedProcess.start(args, env=env, cwd=folder, stdout=folder / "server.log", remove=[folder])
    return process, f"http://127.0.0.1:{port}/api"


def _wait_until_healthy(process: GuardedProcess, url: str, folder: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2.0, trust_env=False).status_code == HTTPStatus.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    log = folder / "server.log"
    words = log.read_text(errors="replace")[-800:] if log.exists() else ""
    message = f"the local Prefect server did not start: {words}"
    raise SetupError("unknown", raw_message=message, hint=f"set {API_URL}")
