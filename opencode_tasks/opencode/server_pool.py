"""Server pool: the opencode servers, backends and catalogs of this process, shared by equal specs."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from opencode_tasks.errors import InputError, SetupError
from opencode_tasks.opencode.backend import Backend, BackendName, OpencodeSpec
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.opencode.binary import version_to_run
from opencode_tasks.opencode.catalog import Catalog, named_tools, read_catalog
from opencode_tasks.opencode.config import allowed_tools, max_output_tokens
from opencode_tasks.opencode.credentials import Credentials, login_types
from opencode_tasks.opencode.loop_thread import LoopThread
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.opencode.server_group import ServerGroup, groups_to_end
from opencode_tasks.opencode.server_key import ServerKey, server_key, settings_digest
from opencode_tasks.opencode.server_rotation import RotationLimits, limits_in_force
from opencode_tasks.opencode.server_set import ServerSet
from opencode_tasks.settings import settings

T = TypeVar("T")

# Interval between two looks for servers that are not needed.
IDLE_CHECK_S = 5.0

_log = logging.getLogger(__name__)

# Its function for the end of the interpreter, after which no thread of a pool starts, runs before those
# that are registered later. So it is loaded before ``_start_loop`` registers ``close``.
importlib.import_module("concurrent.futures.thread")


class ServerPool:
    """An event loop in its own thread, and the servers and backends on it.

    Methods that say "on the loop only" are called from coroutines that ``call`` runs. Servers without a
    prompt end after a while, and immediately if their environment, logins or config have changed.
    """

    def __init__(self, limits: RotationLimits | None = None, *, idle_s: float | None = None) -> None:
        """Make an empty pool.

        ``limits`` None takes the limits of its servers from the settings, and ``idle_s`` None the time in
        seconds after which an idle server ends.
        """
        self._limits = limits
        self._idle_s = idle_s
        self._begin()

    def _begin(self) -> None:
        """Begin without servers and without a loop."""
        # By the part of the server key that the spec decides.
        self._groups: dict[str, ServerGroup] = {}
        self._superseded: set[ServerGroup] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._expected: dict[tuple[ServerKey, str | None, str | None], Future[Catalog]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._loop: LoopThread | None = None
        self._loop_lock = threading.Lock()

    def begin_after_fork(self) -> None:
        """Begin anew in a forked child. The loop has no thread there, and the servers are the parent's."""
        # An object that is deleted would close connections in the parent's epoll.
        _of_parents.append(dict(vars(self)))
        self._begin()

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a coroutine function on the loop and wait for its result. Not for use on the loop itself."""
        future: Future[T] | None = None
        try:
            future = self._start_loop().submit(function, *args)
            return future.result()
        except BaseException:
            # Ctrl-C does not wait for a call that may never end.
            if future is not None:
                future.cancel()
            raise

    async def server(self, spec: OpencodeSpec) -> OpencodeServer:
        """A running server of a spec, started if there is none. On the loop only.

        Raises SetupError if it does not start.
        """
        group = self._group(spec)
        await self._release_login(group, spec)
        return await group.servers.running_server()

    @contextlib.asynccontextmanager
    async def use(
        self, spec: OpencodeSpec, name: BackendName, unpriced: frozenset[str], *, servers: int = 1
    ) -> AsyncGenerator[Backend]:
        """Keep the backend of this name for the block. On the loop only.

        Its prompts are divided among ``servers`` servers, unless the provider has a login that only one
        server at a time may use. Raises SetupError if no server starts.
        """
        with contextlib.ExitStack() as stack:
            group = self._group(spec)
            stack.callback(self._end_superseded)
            stack.enter_context(group.use(1 if self.has_exclusive_login(spec) else servers))
            await self._release_login(group, spec)
            yield await group.backend(spec, name, unpriced)

    async def catalog(
        self, spec: OpencodeSpec, variant: str | None = None, backend: BackendName = "server"
    ) -> Catalog:
        """Model, agent and prices of a spec, read once for each variant and state of the config.

        On the loop only. A server that was started only for this call is ended if ``backend`` does not use
        servers. Raises InputError if opencode does not know the model, agent or variant, SetupError if it
        does not start.
        """
        kind = BACKENDS[backend]
        if kind.catalog is not None:
            return kind.catalog(spec.model_ref)
        group = self._group(spec)
        key = (spec.model_ref, variant)
        with group.use():
            async with group.locks.setdefault(key, asyncio.Lock()):
                if key not in group.catalogs:
                    catalog = await self._expected_catalog(group, key)
                    group.catalogs[key] = catalog or await self._read_catalog(
                        group, spec, variant, keep_server=kind.uses_servers
                    )
                return group.catalogs[key]

    def expect(self, spec: OpencodeSpec, variant: str | None, catalog: Future[Catalog]) -> None:
        """Make ``catalog()`` wait for the result of another process; InputError and SetupError are raised.

        If the other process fails in another way, a server of this process is asked instead.
        """
        self._expected[(server_key(spec), spec.model_ref, variant)] = catalog

    async def _expected_catalog(
        self, group: ServerGroup, key: tuple[str | None, str | None]
    ) -> Catalog | None:
        expected = self._expected.pop((group.key, *key), None)
        if expected is None:
            return None
        try:
            return await asyncio.wrap_future(expected)
        except (InputError, SetupError):
            raise
        except Exception:  # noqa: BLE001  whatever happened to the worker, this process can ask opencode
            _log.warning("a worker could not read the models and agents of opencode", exc_info=True)
            return None

    async def _read_catalog(
        self, group: ServerGroup, spec: OpencodeSpec, variant: str | None, *, keep_server: bool
    ) -> Catalog:
        had_server = group.servers.has_process
        await self._release_login(group, spec)
        try:
            return await read_catalog(
                await group.servers.running_server(),
                model_ref=spec.model_ref,
                agent=spec.agent,
                variant=variant,
                version=await asyncio.to_thread(version_to_run, spec.binary),
                binary=spec.binary,
                allowed=allowed_tools(spec),
                named=named_tools(spec),
                max_output_tokens=max_output_tokens(os.environ),
                explicit_config=spec.config,
                logins=login_types(spec.secrets),
                environ={**os.environ, **spec.secrets.environment},
            )
        finally:
            if not keep_server and not had_server:
                await group.servers.aclose()

    async def end_server(self, spec: OpencodeSpec) -> None:
        """End the servers of a spec that no batch uses; its catalog stays. On the loop only."""
        settings = settings_digest(spec)
        groups = [group for group in self._all_groups() if group.key.settings == settings]
        await asyncio.gather(*(group.servers.aclose() for group in groups if not group.is_used))

    def has_exclusive_login(self, spec: OpencodeSpec) -> bool:
        """Whether the provider of a spec has a login that only one server at a time may use.

        Raises SetupError if the user's login store cannot be read.
        """
        provider = spec.model_ref.partition("/")[0] if spec.model_ref else None
        return Credentials(provider, spec.secrets).is_exclusive

    def close(self) -> None:
        """End every server and the loop, if there are any. The pool can be used again afterwards."""
        with self._loop_lock:
            if self._loop is None:
                return
            self._loop.submit(self._aclose).result()
            self._loop.stop()
            self._loop = None

    def servers(self, spec: OpencodeSpec) -> ServerSet:
        """The servers of a spec, running or not. On the loop only."""
        return self._group(spec).servers

    def _group(self, spec: OpencodeSpec) -> ServerGroup:
        """The group for the spec in its present surroundings."""
        key = server_key(spec)
        group = self._groups.get(key.settings)
        if group is None or group.key != key:
            if group is not None:
                group.is_superseded = True
                self._superseded.add(group)
            group = self._groups[key.settings] = ServerGroup(key, spec, self._limits or limits_in_force())
            self._end_superseded()
        group.last_used = time.monotonic()
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_idle())
        return group

    def _all_groups(self) -> list[ServerGroup]:
        return [*self._groups.values(), *self._superseded]

    async def _release_login(self, group: ServerGroup, spec: OpencodeSpec) -> None:
        """End the other idle servers with an exclusive login, if the spec needs the login."""
        if self.has_exclusive_login(spec):
            await asyncio.gather(*self._ending)
            others = [other for other in self._all_groups() if other is not group and other.is_idle]
            await asyncio.gather(*(other.aclose() for other in others if other.servers.has_exclusive_login))

    def _end_superseded(self) -> None:
        """End the superseded groups that are idle, in the background."""
        for group in [group for group in self._superseded if group.is_idle]:
            self._superseded.discard(group)
            task = asyncio.create_task(group.aclose())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _watch_idle(self) -> None:
        """End servers that are not needed, every few seconds."""
        idle_s = self._idle_s or settings().server_idle
        while True:
            await asyncio.sleep(min(IDLE_CHECK_S, idle_s))
            self._end_superseded()
            ending = groups_to_end(self._groups.values(), time.monotonic(), idle_s)
            await asyncio.gather(*(group.aclose() for group in ending))

    async def _aclose(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        closing = self._all_groups()
        self._groups.clear()
        self._superseded.clear()
        await asyncio.gather(*(group.aclose() for group in closing), *self._ending, return_exceptions=True)

    def _start_loop(self) -> LoopThread:
        with self._loop_lock:
            if self._loop is None:
                self._loop = LoopThread()
                # The interpreter joins its threads before it runs the functions of atexit. The thread of
                # the loop must end before that, and the standard library has no public function for it.
                at_threads_end: Callable[..., None] = threading._register_atexit  # type: ignore[attr-defined]  # noqa: SLF001  see above
                at_threads_end(self.close)
                atexit.register(self.close)
            return self._loop


server_pool: Final = ServerPool()
_of_parents: Final[list[object]] = []
os.register_at_fork(after_in_child=server_pool.begin_after_fork)
