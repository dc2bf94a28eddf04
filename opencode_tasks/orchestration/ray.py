"""A Ray of our own on this machine; neither Prefect nor pandas is imported here."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, cast

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.system import GuardedProcess
from opencode_tasks.system.startup_timing import startup_timing

CREDENTIALS = "opencode_creds"
# As prefect-ray names it, for tasks that are run before it joins.
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

_log = logging.getLogger(__name__)


@contextmanager
def ray_folder() -> Generator[Path]:
    """Private directory for a Ray of this process. It is removed when the process ends, however it ends.

    Raises SetupError if no temporary directory can hold Ray's sockets.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without it, Ray writes a token into the user's home directory, which is never removed.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
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
    """What ``ray.init`` is told for a Ray of our own: it has the credentials resource."""
    return {
        "resources": {CREDENTIALS: 1},
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "_temp_dir": str(folder),
    }


def is_running() -> bool:
    """Whether this process has a Ray; Ray is not imported to find out."""
    return "ray" in sys.modules and bool(cast("Any", sys.modules["ray"]).is_initialized())


class EarlyRay:
    """A Ray that is started in a thread; a RayTaskRunner of this process then takes it as it is.

    With ``wanted``, a spec and a variant, one of its workers starts opencode at once, is asked what
    that knows, which ``catalog`` will be, and loads what a batch needs: the first batch finds the
    worker ready. ``catalog`` raises as ``server_pool.catalog`` does, and where Ray did not start.
    """

    def __init__(self, folder: Path, wanted: tuple[OpencodeSpec, str | None] | None) -> None:
        self.catalog: Future[Catalog] = Future()
        # So that who no longer waits for it cannot cancel it for others.
        self.catalog.set_running_or_notify_cancel()
        self._folder = folder
        self._wanted = wanted
        self._failure: BaseException | None = None
        self._is_up = Event()
        self._task: Any = None
        self._is_ended = False
        self._turn = Lock()
        self._is_done = Event()
        self._may_go = Event()
        Thread(target=self._live, daemon=True).start()

    def wait(self) -> None:
        """Wait until Ray is there; raises what kept it from starting."""
        self._is_up.wait()
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """End Ray, once it is there: to break off its start would break this process."""
        self._is_up.wait()
        if is_running():
            import ray

            known: Any = ray
            with self._turn:
                self._is_ended = True
            if self._task is not None and not self.catalog.done():
                known.cancel(self._task, force=True)
            self._is_done.wait(END_LIMIT_S)
            known.shutdown()
        self._may_go.set()

    def _live(self) -> None:
        self._run()
        self._is_done.set()
        # Ray has its processes killed when the thread that started them ends.
        self._may_go.wait()

    def _run(self) -> None:
        try:
            with startup_timing.part("Ray"):
                _start(self._folder)
        except BaseException as error:  # noqa: BLE001  who waits for it is told
            self._failure = error
            self.catalog.set_exception(error)
            return
        finally:
            self._is_up.set()
        if self._wanted is not None:
            try:
                self.catalog.set_result(self._ask(*self._wanted))
            except BaseException as error:  # noqa: BLE001  who waits for it is told
                self.catalog.set_exception(_ended() if self._is_ended else error)

    def _ask(self, spec: OpencodeSpec, variant: str | None) -> Catalog:
        import ray
        from ray.exceptions import RayTaskError

        from opencode_tasks.orchestration.worker_start import warm_up

        known: Any = ray
        with self._turn:
            if self._is_ended:
                raise _ended()  # To ask it would start another one.
            # Ray must not ask again by itself, and gives a batch the worker that was free last.
            self._task = known.remote(max_retries=0, num_cpus=1)(warm_up).remote(spec, variant)
        try:
            catalog, parts = known.get(self._task)
        except RayTaskError as error:
            raise cast("Exception", cast("Any", error).cause) from None
        startup_timing.add(parts)
        return catalog


def _ended() -> SetupError:
    """An error of our own, after which nobody asks opencode in this process instead."""
    return SetupError("unknown", raw_message="Ray was ended before opencode had answered")


def _start(folder: Path) -> None:
    import ray

    # It warns that only a main thread sets a handler for SIGTERM; ours is to stay.
    logging.getLogger("ray").setLevel(logging.ERROR)
    cast("Any", ray).init(address="local", namespace=NAMESPACE, **ray_options(folder))
