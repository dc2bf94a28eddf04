"""A Ray of our own on this machine; neither Prefect nor pandas is imported here."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Generator
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
# Ray's sockets lie in its folder, and a socket's path is at most 107 characters long.
MAX_TMPDIR = 30
SHORT_TMPDIR = "/tmp"  # noqa: S108  mkdtemp makes a private folder in it


@contextmanager
def ray_folder() -> Generator[Path]:
    """A private folder for a Ray of this process; it goes with the process, whatever ends it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Else Ray writes a token into the user's home, where it would stay.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) <= MAX_TMPDIR else SHORT_TMPDIR
    folder = Path(tempfile.mkdtemp(prefix="oct-ray-", dir=parent))
    guard = GuardedProcess.watch(remove=[folder], kill_users_of=folder)
    try:
        yield folder
    finally:
        guard.stop()


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
