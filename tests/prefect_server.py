"""A Prefect server of a test session, with a private database."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import httpx
import psutil

START_LIMIT_S = 120.0
API_URL = "PREFECT_API_URL"


class LocalServer:
    """A Prefect server. It ends with ``stop``."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, folder: Path) -> None:
        self.url = url
        self._process = process
        self._folder = folder

    @classmethod
    def start(cls) -> Self:
        """Start a server without waiting for it."""
        folder = Path(tempfile.mkdtemp(prefix="prefect-"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {
            "PREFECT_HOME": str(folder),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "WARNING",
        }
        program = str(Path(sys.executable).with_name("prefect"))
        args = [program, "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(args, env=env, cwd=folder, stdout=log, stderr=log)
        return cls(process, f"http://127.0.0.1:{port}/api", folder)

    def wait(self) -> None:
        """Wait until the server answers."""
        deadline = time.monotonic() + START_LIMIT_S
        while not self._answers():
            is_running = self._process.poll() is None and time.monotonic() < deadline
            assert is_running, (self._folder / "server.log").read_text(errors="replace")
            time.sleep(0.1)

    def stop(self) -> None:
        """Kill the server and its children, and remove its folder."""
        parent = psutil.Process(self._process.pid)
        for process in (*parent.children(recursive=True), parent):
            process.kill()
        self._process.wait(timeout=20)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2.0, trust_env=False).is_success
        except httpx.HTTPError:
            return False


@contextmanager
def prefect_api() -> Generator[str]:
    """The API of a new server, in the settings of this process and in its environment meanwhile."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    server = LocalServer.start()
    try:
        server.wait()
        os.environ[API_URL] = server.url
        with temporary_settings({PREFECT_API_URL: server.url}):
            yield server.url
    finally:
        os.environ.pop(API_URL, None)
        server.stop()
