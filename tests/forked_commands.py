"""Runs the command line in processes that are forked from one that has loaded its modules.

Loading takes about five seconds of CPU time, more than most commands need for everything else. As a program,
this file is the process that has loaded them: for each job that arrives, it starts a process that runs the
command as the installed script does, with its own session, environment, folder and standard streams.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

if TYPE_CHECKING:
    from opencode_tasks.testing.scripted_backend import ServedProvider

MAX_JOB_BYTES = 1 << 20
# Processes that have loaded the modules; each needs some hundred megabytes.
MAX_LOADED = 3
# These are read when they are needed. A command with another difference loads its modules itself, since
# Prefect, for example, reads its variables while it is loaded.
READ_LATE = "OPENCODE_TASKS_"
# Config and models of a scripted provider, as JSON, that answers in place of opencode. Only forked commands
# know it.
SCRIPTED = "OPENCODE_TASKS_TEST_SCRIPTED"
IGNORED = "PYTEST_"
# What commands load besides the modules of the package.
ALSO_LOADED = (
    "alembic.command",
    "genai_prices",
    "prefect.flow_engine",
    "prefect.task_engine",
    "pyarrow.parquet",
    "sqlalchemy.dialects.sqlite",
    "graphviz",
    "fastapi",
    "krippendorff",
    "openpyxl",
    "scipy.stats",
    "sklearn.feature_extraction.text",
    "sklearn.metrics",
)
LEFT_OUT = (
    "opencode_tasks.local_model.__main__",
    "opencode_tasks.ledger.migrations",
    "opencode_tasks.testing",
)


def early(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that may be read while modules are loaded."""
    return {k: v for k, v in environment.items() if not k.startswith((READ_LATE, IGNORED))}


class ForkedCommand(subprocess.Popen[str]):
    """A command in a forked process, used as one that was started with ``text=True`` and two pipes.

    With ``terminal``, the descriptor of one is its three standard streams.
    """

    def __init__(
        self,
        jobs: socket.socket,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        terminal: int | None = None,
    ) -> None:
        # The state on which ``communicate`` works; ``Popen.__init__`` would start a program.
        self._child_created = False
        self._communication_started = False
        self._input = None
        self._fileobj2output: dict[Any, Any] = {}
        self._sigint_wait_secs = 0.25
        self.text_mode = True
        self.args = arguments
        self.stdin = None
        self.returncode: int | Any = None
        job = {
            "arguments": arguments,
            "folder": str(folder),
            "environment": dict(environment),
            "is_on_terminal": terminal is not None,
        }
        pipes = [os.pipe() for _ in range(3 if terminal is None else 1)]
        streams = [] if terminal is None else [terminal, terminal]
        socket.send_fds(jobs, [json.dumps(job).encode()], [*streams, *(write for _, write in pipes)])
        for _, write in pipes:
            os.close(write)
        *output, status = (open(read, encoding="utf-8") for read, _ in pipes)  # noqa: SIM115, PTH123
        self.stdout, self.stderr = output or (None, None)
        self._status = status
        self.pid = int(status.readline())

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            watched = select.poll()
            watched.register(self._status, select.POLLIN)
            if not watched.poll(None if timeout is None else 1000 * timeout):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            # A process that is killed with its parent reports nothing.
            self.returncode = int(self._status.readline() or -signal.SIGKILL)
            self._status.close()
        return self.returncode


class LoadedCommand:
    """The processes from which commands are forked, one for each environment of a scripted command.

    Each starts with the first of its commands. A test may start a server for the session, whose address is
    then in the environment of all later commands.
    """

    def __init__(self) -> None:
        self._loaded: dict[tuple[tuple[str, str], ...], tuple[subprocess.Popen[bytes], socket.socket]] = {}
        self._asked: set[tuple[tuple[str, str], ...]] = set()

    def start(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        terminal: int | None = None,
    ) -> ForkedCommand:
        """Start a command."""
        return ForkedCommand(self._jobs(environment), arguments, folder, environment, terminal)

    def start_if_loaded(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> ForkedCommand | None:
        """Start a command; None for the first one of an environment, if others have loaded the modules.

        Many tests have a command with an environment of its own, for which loading them would save nothing.
        """
        key = _key(environment)
        if self._loaded and key not in self._loaded and key not in self._asked:
            self._asked.add(key)
            return None
        return self.start(arguments, folder, environment)

    def _jobs(self, environment: Mapping[str, str]) -> socket.socket:
        key = _key(environment)
        if key not in self._loaded and len(self._loaded) == MAX_LOADED:
            self._end(next(iter(self._loaded)))
        # The last one of the dictionary is the one that was used last.
        self._loaded[key] = self._loaded.pop(key, None) or _load(dict(key))
        return self._loaded[key][1]

    def starts(self, process: psutil.Process) -> bool:
        """Whether a process is one that has loaded the modules, or one that waits for a command."""
        ours = {process.pid, process.ppid()}
        return any(loaded.pid in ours for loaded, _ in self._loaded.values())

    def close(self) -> None:
        """End the processes; commands that run continue."""
        for key in [*self._loaded]:
            self._end(key)

    def _end(self, key: tuple[tuple[str, str], ...]) -> None:
        process, jobs = self._loaded.pop(key)
        jobs.close()
        process.wait(timeout=20)


def _key(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(early(environment).items()))


def _load(environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    jobs, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    return process, jobs


loaded_command: Final = LoadedCommand()


def load() -> None:
    """Load what commands load, as ``opencode_tasks.cli.app.main`` does."""
    from opencode_tasks.cli.app import set_environment, with_commands

    set_environment()
    import opencode_tasks

    for found in pkgutil.walk_packages(opencode_tasks.__path__, "opencode_tasks."):
        if not found.name.startswith(LEFT_OUT):
            importlib.import_module(found.name)
    for name in ALSO_LOADED:
        importlib.import_module(name)
    with_commands()


def serve(jobs: socket.socket) -> None:
    """Start a process for each job until the other side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load()
    gc.collect()
    gc.freeze()
    # No process here waits for those that watch the commands.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(jobs, MAX_JOB_BYTES, 3)
        if not message:
            return
        if os.fork() == 0:
            jobs.close()
            watch(json.loads(message), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def watch(job: Mapping[str, Any], stdout: int, stderr: int, status: int) -> None:
    """Run a job in a child process, and report its process id and its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(status)
        run(job, stdout, stderr)
    os.close(stdout)
    os.close(stderr)
    os.write(status, f"{pid}\n".encode())
    _, code = os.waitpid(pid, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(code)}\n".encode())
    os._exit(0)


class ProviderElsewhere:
    """A scripted provider that another process serves."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.models = known["models"]
        self._config = known["config"]

    def opencode_config(self) -> dict[str, Any]:
        return self._config


def replace_opencode(provider: ServedProvider) -> None:
    """Have the backend ``server`` of this process send its prompts to a scripted provider itself."""
    from opencode_tasks.opencode.backend_table import BACKENDS, BackendKind
    from opencode_tasks.testing.scripted_backend import ScriptedBackend, scripted_catalog

    table: Any = BACKENDS
    table["server"] = BackendKind(
        create=lambda spec, unpriced, _: ScriptedBackend(provider, spec, unpriced),
        catalog=lambda model_ref: scripted_catalog(provider, model_ref or "fake/echo"),
    )


def run(job: Mapping[str, Any], stdout: int, stderr: int) -> None:
    """Run the command line in this process and end it."""
    from opencode_tasks.cli.app import main

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, place in ((stdout, 1), (stderr, 2)):
        os.dup2(descriptor, place)
        os.close(descriptor)
    if job["is_on_terminal"]:
        os.dup2(1, 0)
        # The kernel sends SIGHUP when it is closed.
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    time.tzset()
    sys.argv = list(job["arguments"])
    if (scripted := os.environ.pop(SCRIPTED, None)) is not None:
        replace_opencode(ProviderElsewhere(json.loads(scripted)))
    code: Any = None
    try:
        main()
    except SystemExit as end:
        code = end.code
    # As the interpreter ends, but without taking its modules apart, which in a fork copies their memory.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        serve(listening)
