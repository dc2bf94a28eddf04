"""Start of the local model's process."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TextIO

import httpx

from opencode_tasks.domain.extras import install_hint
from opencode_tasks.errors import SetupError
from opencode_tasks.local_model.provider import LOCAL_PREFIX, opencode_provider_config
from opencode_tasks.opencode.install import is_model, model_path
from opencode_tasks.system import GuardedProcess, undisturbed

START_LIMIT_S = 60.0
POLL_S = 0.05
MAX_THREADS = 4
LOG_LIMIT = 400
LOOPBACK = "127.0.0.1"


class RunningLocalModel:
    """Running server of the local model. It ends with ``stop``, its ``with`` block, or this process.

    ``base_url`` ends in ``/v1``.
    """

    def __init__(self, base_url: str, process: GuardedProcess) -> None:
        self.base_url = base_url
        self.pid: Final = process.pid
        self._process = process

    def is_running(self) -> bool:
        """Whether the process of the server runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Stop the server and remove its files. A second call has no effect."""
        self._process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class LocalModelOnDemand:
    """The local model with its address, before its server runs.

    ``config`` is the opencode config for it; empty if no model of the run is local.
    """

    def __init__(self, port: int | None, stack: ExitStack, say: Callable[[str], None]) -> None:
        self.config: Final = {} if port is None else opencode_provider_config(f"http://{LOOPBACK}:{port}/v1")
        self._port = port
        self._stack = stack
        self._say = say

    @property
    def is_used(self) -> bool:
        """Whether a model of the run is local."""
        return self._port is not None

    def start(self) -> None:
        """Start the server. Raises SetupError as ``start_local_model`` does."""
        if self._port is not None:
            running = self._stack.enter_context(start_local_model(port=self._port))
            self._say(f"local model: serving at {running.base_url}")


@contextmanager
def local_model_on_demand(
    model: str | Sequence[str] | None, say: Callable[[str], None]
) -> Generator[LocalModelOnDemand]:
    """The local model if ``model`` names it, or a list of models with it; the context ends its server.

    Raises SetupError if the local model is named and not installed.
    """
    with ExitStack() as stack:
        if not _is_local(model):
            yield LocalModelOnDemand(None, stack, say)
            return
        require_engine()
        _existing(None)
        yield LocalModelOnDemand(_free_port(), stack, say)


def _is_local(model: str | Sequence[str] | None) -> bool:
    names = [model] if isinstance(model, str) else model or ()
    return any(name.startswith(LOCAL_PREFIX) for name in names)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        return free.getsockname()[1]


@contextmanager
def local_provider(
    model: str | Sequence[str] | None, say: Callable[[str], None]
) -> Generator[dict[str, Any]]:
    """Start the local model if ``model`` names it, or a list of models with it.

    Yields the opencode config for it, else an empty one.
    """
    if not _is_local(model):
        yield {}
        return
    with start_local_model() as running:
        say(f"local model: serving at {running.base_url}")
        yield opencode_provider_config(running.base_url)


def start_local_model(
    *,
    model: Path | None = None,
    port: int = 0,
    parallel: int = 4,
    threads: int | None = None,
    start_limit_s: float = START_LIMIT_S,
) -> RunningLocalModel:
    """Serve the local model on the loopback interface; return when the server answers.

    ``model`` is a GGUF file, by default the one that ``opencode-tasks setup --local`` installed. Port 0
    means any free port. ``parallel`` is the number of conversations that are processed at the same time;
    others wait. ``threads`` is the number of CPU threads, by default one per core, at most 4. Raises
    SetupError if xllamacpp or the model is missing, or if the server does not answer within
    ``start_limit_s`` seconds.
    """
    require_engine()
    path = _existing(model)
    with ExitStack() as stack:
        with undisturbed():
            folder = Path(tempfile.mkdtemp(prefix="opencode-tasks-model-"))
            log, ready_file = folder / "log", folder / "ready"
            log.touch()
            # Opened before the start, because the guard removes the folder when the server ends.
            reader = stack.enter_context(log.open(errors="replace"))
            process = GuardedProcess.start(
                [
                    *(sys.executable, "-m", "opencode_tasks.local_model"),
                    *("--model", str(path), "--port", str(port), "--parallel", str(parallel)),
                    *("--threads", str(threads or _default_threads()), "--ready-file", str(ready_file)),
                ],
                env=os.environ,
                cwd=folder,
                stdout=log,
                remove=[folder],
            )
        try:
            base_url = _wait_until_ready(process, ready_file, reader, start_limit_s)
        except BaseException:
            process.stop()
            raise
    return RunningLocalModel(base_url, process)


def require_engine() -> None:
    """Raise SetupError if xllamacpp, which serves the local model, is not installed."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise SetupError(
            "unknown",
            raw_message="the local model needs xllamacpp, which is not installed",
            hint=install_hint("local"),
        )


def _existing(model: Path | None) -> Path:
    hint = "Run `opencode-tasks setup --local` to fetch it."
    if model is None:
        if not is_model(model_path()):
            raise SetupError("unknown", raw_message=f"there is no local model at {model_path()}", hint=hint)
        return model_path()
    if not model.is_file():
        raise SetupError("unknown", raw_message=f"there is no model file {model}", hint=hint)
    return model.absolute()


def _wait_until_ready(process: GuardedProcess, ready_file: Path, log: TextIO, limit_s: float) -> str:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        code = process.poll()
        if code is not None:
            raise SetupError("unknown", raw_message=f"the local model's server ended ({code}): {_tail(log)}")
        if ready_file.exists() and _answers(address := ready_file.read_text()):
            return f"{address}/v1"
        time.sleep(POLL_S)
    raise SetupError(
        "unknown", raw_message=f"the local model's server was not ready in {limit_s:g} s: {_tail(log)}"
    )


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5.0, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _tail(log: TextIO) -> str:
    return log.read()[-LOG_LIMIT:].strip()


def _default_threads() -> int:
    return min(len(os.sched_getaffinity(0)), MAX_THREADS)
