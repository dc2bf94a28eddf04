"""The Ray of a run, in its own thread; neither Prefect nor pandas is imported here."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, cast

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.system import GuardedProcess, outliving_the_terminal, undisturbed
from opencode_tasks.system.folders import home
from opencode_tasks.system.startup_times import Part, startup_timing, timed_imports

CREDENTIALS = "opencode_creds"
# The namespace of prefect-ray, for tasks that run before it joins.
NAMESPACE = "prefect"
END_LIMIT_S = 5.0
# The address of a Unix socket has room for a path of 107 bytes and a NUL.
MAX_SOCKET_PATH_BYTES = 107
# Longest path of a socket below Ray's directory (ray 2.60); a Linux process id has up to 7 digits.
LONGEST_SOCKET = "/session_YYYY-MM-DD_hh-mm-ss_ffffff_PPPPPPP/sockets/plasma_store"
FOLDER_PREFIX = "oct-ray-"
# mkdtemp appends a slash, the prefix and 8 random characters.
MAX_TMPDIR_BYTES = MAX_SOCKET_PATH_BYTES - len(LONGEST_SOCKET) - len(FOLDER_PREFIX) - 9
TMPDIR_VARIABLES = ("TMPDIR", "TEMP", "TMP")
FALLBACK_TMPDIRS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  mkdtemp makes a private directory in it

# Processes of a head node that a Ray of one run does not use: the autoscaler, the reader of the logs that
# are not shown, and the API server, which starts without its dashboard too (ray 2.60). Each is a Python
# program; together they use 2 of the 15 CPU seconds until the first outcome.
UNUSED_SERVICES = ("start_monitor", "start_log_monitor", "start_api_server")

# Switch of Ray (2.60) for environments of workers after `uv run`. The user may set it.
UV_RUN = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"

_log = logging.getLogger(__name__)


@contextmanager
def ray_folder() -> Generator[Path]:
    """Private directory for a Ray of this process. It is removed when the process ends, however it ends.

    Raises SetupError if no temporary directory can hold Ray's sockets.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without it, Ray writes a token into the user's home directory, which is never removed.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with undisturbed():
        folder = _make_folder(_temporary_dirs(os.environ))
        guard = GuardedProcess.watch(remove=[folder], kill_users_of=folder)
    try:
        yield folder
    finally:
        guard.stop()


def _temporary_dirs(environ: Mapping[str, str]) -> list[str]:
    """Candidates for Ray's temporary directory: the user's choice first, then the usual short ones."""
    chosen = [environ[name] for name in TMPDIR_VARIABLES if environ.get(name)]
    return list(dict.fromkeys(str(Path(path).absolute()) for path in (*chosen, *FALLBACK_TMPDIRS)))


def _make_folder(candidates: Sequence[str]) -> Path:
    """Make Ray's directory in the first candidate that is short enough and writable."""
    rejected: list[str] = []
    # A long path is common and harmless; a directory that cannot be used is a mistake worth a warning.
    level = logging.INFO
    for parent in candidates:
        if len(os.fsencode(parent)) > MAX_TMPDIR_BYTES:
            rejected.append(f"{parent} is longer than {MAX_TMPDIR_BYTES} bytes")
            continue
        try:
            folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
        except OSError as error:
            rejected.append(f"{parent} cannot be used ({error.strerror})")
            level = logging.WARNING
            continue
        if rejected:
            _log.log(level, "the local Ray uses %s for temporary files: %s", parent, "; ".join(rejected))
        return folder
    raise SetupError(
        "unknown",
        raw_message=f"no temporary directory can hold the sockets of a local Ray: {'; '.join(rejected)}",
        hint=f"set TMPDIR to a writable directory with a path of at most {MAX_TMPDIR_BYTES} bytes",
    )


def ray_options(folder: Path) -> dict[str, Any]:
    """Arguments of ``ray.init`` for a local Ray: it has the credentials resource."""
    return {
        "resources": {CREDENTIALS: 1},
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "_temp_dir": str(folder),
    }


def is_running() -> bool:
    """Whether this process has a Ray. Does not import Ray."""
    return "ray" in sys.modules and bool(cast("Any", sys.modules["ray"]).is_initialized())


@contextmanager
def running_ray(address: str | None) -> Generator[None]:
    """The Ray that this process has joined already; else the one at ``address``, or a local one for None.

    Raises SetupError, or the error of Ray, if it cannot be joined or started.
    """
    if is_running():
        yield
        return
    if address is not None:
        # Before Ray is imported, which reads the environment.
        _use_token()
    with ExitStack() as stack:
        if address is None:
            ray = EarlyRay("local", ray_options(stack.enter_context(ray_folder())))
        else:
            ray = EarlyRay(address, {"log_to_driver": False, "logging_level": logging.ERROR})
        stack.callback(ray.end)
        ray.wait()
        yield


def _use_token() -> None:
    """Have Ray send the cluster its token if there is one, since ``ray start`` requires it then.

    ``ray.init`` alone does not (ray 2.60). A cluster that requires none ignores it.
    """
    has_token = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if has_token or (home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstTask:
    """First work of a worker of a new Ray: with this opencode and variant, and these modules of a batch."""

    spec: OpencodeSpec
    variant: str | None
    modules: Sequence[str]


class EarlyRay:
    """A Ray that is started or joined in a thread; a RayTaskRunner of this process uses it.

    In the main thread, ``ray.init`` would replace the handler of SIGTERM.

    With ``first_task``, a worker starts opencode at once, reads ``catalog`` from it, and loads the modules
    of a batch: the first batch finds the worker ready. The future ``catalog`` raises as
    ``server_pool.catalog`` does, and if Ray did not start.
    """

    def __init__(
        self,
        address: str,
        options: Mapping[str, Any],
        first_task: FirstTask | None = None,
    ) -> None:
        self.catalog: Future[Catalog] = Future()
        # A caller that no longer waits for it must not cancel it for others.
        self.catalog.set_running_or_notify_cancel()
        self._address = address
        self._options = options
        self._first_task = first_task
        self._failure: BaseException | None = None
        self._is_up = Event()
        self._task: Any = None
        self._is_ended = False
        self._lock = Lock()
        self._is_done = Event()
        self._may_exit = Event()
        Thread(target=self._live, daemon=True).start()

    def wait(self) -> None:
        """Wait until Ray has started. Raises the error that prevented it."""
        self._is_up.wait()
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """End Ray once it has started: to break off its start would break this process."""
        self._is_up.wait()
        if is_running():
            import ray

            api: Any = ray
            with self._lock:
                self._is_ended = True
            if self._task is not None and not self.catalog.done():
                api.cancel(self._task, force=True)
            self._is_done.wait(END_LIMIT_S)
            api.shutdown()
        self._may_exit.set()

    def _live(self) -> None:
        self._run()
        self._is_done.set()
        # Ray kills its processes when the thread that started them ends.
        self._may_exit.wait()

    def _run(self) -> None:
        try:
            with startup_timing.part("Ray"):
                _start(self._address, self._options)
        except BaseException as error:  # noqa: BLE001  raised in the threads that wait for Ray
            self._failure = error
            self.catalog.set_exception(error)
            return
        finally:
            self._is_up.set()
        if self._first_task is not None:
            try:
                self.catalog.set_result(self._read_catalog(self._first_task))
            except BaseException as error:  # noqa: BLE001  raised in the threads that wait for the catalog
                self.catalog.set_exception(_ended() if self._is_ended else error)

    def _read_catalog(self, first_task: FirstTask) -> Catalog:
        import ray
        from ray.exceptions import RayTaskError

        api: Any = ray
        with self._lock:
            if self._is_ended:
                raise _ended()  # A call of Ray would start another one.
            # Ray must not retry the task. It gives the first batch the worker that was free last.
            self._task = api.remote(max_retries=0, num_cpus=1)(warm_up).remote(first_task)
        try:
            catalog, parts = api.get(self._task)
        except RayTaskError as error:
            raise cast("Exception", cast("Any", error).cause) from None
        startup_timing.add(parts)
        return catalog


def warm_up(first_task: FirstTask) -> tuple[Catalog, Sequence[Part]]:
    """In a Ray worker: start the server of this process, and load meanwhile what a batch needs.

    Returns what opencode knows, and how long it took. Raises as ``server_pool.catalog`` does.
    """
    start = time.time()
    Thread(target=_load, args=(first_task.modules,), daemon=True).start()
    catalog = server_pool.call(server_pool.catalog, first_task.spec, first_task.variant)
    return catalog, [Part("opencode", start, time.time())]


def _load(modules: Sequence[str]) -> None:
    with timed_imports():
        for name in modules:
            importlib.import_module(name)


def _ended() -> SetupError:
    """An error of ours: after another one, opencode would be started in this process instead."""
    return SetupError("unknown", raw_message="Ray was ended before opencode had answered")


@contextmanager
def _without_unused_services() -> Generator[None]:
    """Have Ray start without them; a later Ray of this process starts them again."""
    from ray._private.node import Node

    node: Any = Node
    own: dict[str, Any] = {name: vars(node)[name] for name in UNUSED_SERVICES if name in vars(node)}
    for name in own:
        setattr(node, name, _start_nothing)
    try:
        yield
    finally:
        for name, start in own.items():
            setattr(node, name, start)


def _start_nothing(node: object, **options: object) -> None:
    del node, options


def _start(address: str, options: Mapping[str, Any]) -> None:
    import ray
    from ray._private import ray_constants, worker

    # It prints errors of the cluster on stdout, which is data here, whatever log_to_driver says (ray 2.60).
    cast("Any", worker)._worker_logs_enabled = False  # noqa: SLF001
    constants = cast("Any", ray_constants)
    # Ray's handler of SIGTERM prints a stack and aborts the process after three seconds (ray 2.60).
    constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True
    if UV_RUN not in os.environ:
        # After `uv run`, Ray would upload the working directory and make an environment for the workers,
        # which have ours. It refuses a project that is not in the working directory.
        constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
    # It warns that only a main thread sets a handler for SIGTERM; our handler stays.
    logging.getLogger("ray").setLevel(logging.ERROR)
    with (
        _without_unused_services() if address == "local" else nullcontext(),
        # Its processes are in the process group of the command.
        outliving_the_terminal(),
    ):
        cast("Any", ray).init(address=address, namespace=NAMESPACE, **options)
