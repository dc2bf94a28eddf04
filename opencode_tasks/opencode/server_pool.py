"""Server pool: the opencode servers, backends and catalogs of this process, shared by equal specs."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import importlib
import itertools
import json
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any, Final, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from opencode_tasks.errors import InputError, SetupError
from opencode_tasks.opencode.backend import Backend, BackendName, OpencodeSpec
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.opencode.binary import version_to_run
from opencode_tasks.opencode.catalog import Catalog, read_catalog
from opencode_tasks.opencode.config import allowed_tools, max_output_tokens
from opencode_tasks.opencode.credentials import Credentials
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.opencode.server_rotation import RotationLimits, ServerRotation, limits_in_force
from opencode_tasks.system import defer_stop

T = TypeVar("T")

_log = logging.getLogger(__name__)

# Its function for the end of the interpreter, after which no thread of a pool starts, runs before those
# that are registered later. So it is loaded before ``_start_portal`` registers ``close``.
importlib.import_module("concurrent.futures.thread")


class ServerPool:
    """An event loop in its own thread, and the servers and backends on it.

    Methods that say "on the loop only" are called from coroutines that ``call`` runs. A *lane* is the
    number of a batch that has a server for itself.
    """

    def __init__(self, limits: RotationLimits | None = None) -> None:
        """Make an empty pool. ``limits`` None takes the limits of its servers from the settings."""
        self._limits = limits
        self._servers: dict[tuple[str, int], ServerRotation] = {}
        self._lanes: dict[str, set[int]] = {}
        self._backends: dict[tuple[BackendName, str, int], Backend] = {}
        self._catalogs: dict[str, Catalog] = {}
        self._expected: dict[str, Future[Catalog]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._stack = contextlib.ExitStack()
        self._portal: BlockingPortal | None = None
        self._portal_lock = threading.Lock()

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a coroutine function on the loop and wait for its result. Not for use on the loop itself."""
        future: Future[T] | None = None
        try:
            # Interrupted while it starts, anyio (4.16) would wait forever for a loop that is not stopped.
            # The future must be assigned before an interruption, so that it can be cancelled.
            with defer_stop():
                future = self._start_portal().start_task_soon(function, *args)
            return future.result()
        except BaseException:
            # Ctrl-C does not wait for a call that may never end.
            if future is not None:
                future.cancel()
            raise

    async def server(self, spec: OpencodeSpec) -> OpencodeServer:
        """The running server of a spec, started if there is none. On the loop only.

        Raises SetupError if it does not start.
        """
        return await self.rotation(spec).running_server()

    def take_lane(self, spec: OpencodeSpec) -> int:
        """Reserve the lowest free lane of a spec; call ``release_lane`` afterwards. On the loop only.

        A login that only one server at a time may use is shared by all: then the lane is always 0.
        """
        if self.has_exclusive_login(spec):
            return 0
        taken = self._lanes.setdefault(server_key(spec), set())
        lane = next(number for number in itertools.count() if number not in taken)
        taken.add(lane)
        return lane

    def release_lane(self, spec: OpencodeSpec, lane: int) -> None:
        """Make a lane free for another batch. On the loop only."""
        self._lanes.get(server_key(spec), set[int]()).discard(lane)

    async def backend(
        self, spec: OpencodeSpec, name: BackendName, unpriced: frozenset[str], lane: int = 0
    ) -> Backend:
        """The backend of this name for a spec. On the loop only.

        A backend that uses servers has one for each ``lane``, and starts it again if it dies. Raises
        SetupError if the server does not start.
        """
        kind = BACKENDS[name]
        servers = self.rotation(spec, lane)
        if kind.uses_servers:
            await servers.running_server()
        key = (name, server_key(spec), lane if kind.uses_servers else 0)
        if key not in self._backends:
            self._backends[key] = kind.create(spec, unpriced, servers)
        return self._backends[key]

    async def catalog(
        self, spec: OpencodeSpec, variant: str | None = None, backend: BackendName = "server"
    ) -> Catalog:
        """Model, agent and prices of a spec, read once for each spec and variant. On the loop only.

        A server that was started only for this call is ended if ``backend`` does not use servers. Raises
        InputError if opencode does not know the model, agent or variant, SetupError if it does not start.
        """
        kind = BACKENDS[backend]
        if kind.catalog is not None:
            return kind.catalog()
        key = _catalog_key(spec, variant)
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key not in self._catalogs:
                catalog = await self._expected_catalog(key)
                self._catalogs[key] = catalog or await self._read_catalog(
                    spec, variant, keep_server=kind.uses_servers
                )
            return self._catalogs[key]

    def expect(self, spec: OpencodeSpec, variant: str | None, catalog: Future[Catalog]) -> None:
        """Make ``catalog()`` wait for the result of another process; InputError and SetupError are raised.

        If the other process fails in another way, a server of this process is asked instead.
        """
        self._expected[_catalog_key(spec, variant)] = catalog

    async def _expected_catalog(self, key: str) -> Catalog | None:
        expected = self._expected.pop(key, None)
        if expected is None:
            return None
        try:
            return await asyncio.wrap_future(expected)
        except (InputError, SetupError):
            raise
        except Exception:  # noqa: BLE001  whatever happened to the worker, this process can ask opencode
            _log.warning("a worker could not read the models and agents of opencode", exc_info=True)
            return None

    async def _read_catalog(self, spec: OpencodeSpec, variant: str | None, *, keep_server: bool) -> Catalog:
        had_server = self.rotation(spec).current is not None
        try:
            return await read_catalog(
                await self.server(spec),
                model_ref=spec.model_ref,
                agent=spec.agent,
                variant=variant,
                version=await asyncio.to_thread(version_to_run, spec.binary),
                binary=spec.binary,
                allowed=allowed_tools(spec),
                max_output_tokens=max_output_tokens(os.environ),
                explicit_config=spec.config,
            )
        finally:
            if not keep_server and not had_server:
                await self.end_server(spec)

    async def end_server(self, spec: OpencodeSpec) -> None:
        """End the servers of a spec in all lanes; its catalog stays. On the loop only."""
        servers = [rotation for (key, _), rotation in self._servers.items() if key == server_key(spec)]
        await asyncio.gather(*(rotation.aclose() for rotation in servers))

    def has_exclusive_login(self, spec: OpencodeSpec) -> bool:
        """Whether the provider of a spec has a login that only one server at a time may use.

        Raises SetupError if the user's login store cannot be read.
        """
        provider = spec.model_ref.partition("/")[0] if spec.model_ref else None
        return Credentials(provider, spec.secrets).is_exclusive

    def close(self) -> None:
        """End every server and the loop, if there are any. The pool can be used again afterwards."""
        with self._portal_lock:
            if self._portal is None:
                return
            with contextlib.suppress(RuntimeError):
                self._portal.call(self._aclose)
            self._portal = None
            self._stack.close()

    def rotation(self, spec: OpencodeSpec, lane: int = 0) -> ServerRotation:
        """The servers of a spec in a lane, running or not. On the loop only."""
        key = (server_key(spec), lane)
        if key not in self._servers:
            self._servers[key] = ServerRotation(spec, self._limits or limits_in_force())
        return self._servers[key]

    async def _aclose(self) -> None:
        closing = [*self._servers.values(), *self._backends.values()]
        self._servers.clear()
        self._backends.clear()
        self._locks.clear()
        await asyncio.gather(*(item.aclose() for item in closing), return_exceptions=True)

    def _start_portal(self) -> BlockingPortal:
        with self._portal_lock:
            if self._portal is None:
                self._portal = self._stack.enter_context(start_blocking_portal("asyncio"))
                # The interpreter joins its threads before it runs the functions of atexit. The thread of
                # the loop must end before that, and the standard library has no public function for it.
                at_threads_end: Callable[..., None] = threading._register_atexit  # type: ignore[attr-defined]  # noqa: SLF001  see above
                at_threads_end(self.close)
                atexit.register(self.close)
            return self._portal


def server_key(spec: OpencodeSpec) -> str:
    """Digest of the fields that two specs must share to share a server.

    The system text is not one of them, since each message carries it. Of the model only the provider is.
    """
    values = asdict(spec)
    values.pop("system")
    values["model_ref"] = spec.model_ref.partition("/")[0] if spec.model_ref else None
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _catalog_key(spec: OpencodeSpec, variant: str | None) -> str:
    return f"{server_key(spec)} {spec.model_ref} {variant}"


server_pool: Final = ServerPool()
