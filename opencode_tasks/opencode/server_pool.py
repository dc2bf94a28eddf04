"""The warm servers of this process: started on first use, shared by what needs the same one."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import itertools
import json
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from opencode_tasks.errors import InputError, SetupError
from opencode_tasks.opencode.backend import Backend, BackendName, OpencodeSpec
from opencode_tasks.opencode.binary import version_to_run
from opencode_tasks.opencode.catalog import Catalog, read_catalog
from opencode_tasks.opencode.cli_backend import CliBackend
from opencode_tasks.opencode.config import allowed_tools, most_output_tokens
from opencode_tasks.opencode.instance_dir import Credentials
from opencode_tasks.opencode.null_backend import NullBackend
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.opencode.server_backend import ServerBackend
from opencode_tasks.opencode.server_rotation import RotationLimits, ServerRotation, limits_in_force
from opencode_tasks.system import defer_stop

T = TypeVar("T")

_log = logging.getLogger(__name__)


class ServerPool:
    """One event loop in a thread of its own, and the servers that live on it."""

    def __init__(self, limits: RotationLimits | None = None) -> None:
        """With ``limits`` for its servers, or those of the settings where it is None."""
        self._limits = limits
        self._servers: dict[tuple[str, int], ServerRotation] = {}
        self._lanes: dict[str, set[int]] = {}
        self._clis: dict[str, CliBackend] = {}
        self._catalogs: dict[str, Catalog] = {}
        self._expected: dict[str, Future[Catalog]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._stack = contextlib.ExitStack()
        self._portal: BlockingPortal | None = None
        self._guard = threading.Lock()

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a coroutine function on the loop and wait for it; from any thread but the loop's."""
        future: Future[T] | None = None
        try:
            # Broken off in its start, anyio (4.16) would wait for ever for a loop that nobody has
            # stopped; and what has begun must be known here.
            with defer_stop():
                future = self._running().start_task_soon(function, *args)
            return future.result()
        except BaseException:
            # Ctrl-C must not wait for what may never answer.
            if future is not None:
                future.cancel()
            raise

    async def server(self, spec: OpencodeSpec) -> OpencodeServer:
        """The live server for a spec. On the loop only."""
        return await self.rotation(spec).live()

    def take_lane(self, spec: OpencodeSpec) -> int:
        """A number for one who wants a server of its own for a spec; give it back. On the loop only.

        A login that only one server at a time may use is shared by all.
        """
        if self.one_owner(spec):
            return 0
        taken = self._lanes.setdefault(server_key(spec), set())
        lane = next(number for number in itertools.count() if number not in taken)
        taken.add(lane)
        return lane

    def give_lane(self, spec: OpencodeSpec, lane: int) -> None:
        """Let another use the server of a lane."""
        self._lanes.get(server_key(spec), set[int]()).discard(lane)

    async def backend(
        self, spec: OpencodeSpec, name: BackendName, unpriced: frozenset[str], lane: int = 0
    ) -> Backend:
        """A backend for a spec, which starts its server again where that died. On the loop only.

        Each ``lane`` has a server of its own. Raises SetupError where a server does not start.
        """
        if name == "null":
            return NullBackend()
        if name == "server":
            rotation = self.rotation(spec, lane)
            await rotation.live()
            return ServerBackend(rotation, spec, unpriced)
        key = server_key(spec)
        if key not in self._clis:
            self._clis[key] = CliBackend(spec, unpriced)
        return self._clis[key]

    async def catalog(
        self, spec: OpencodeSpec, variant: str | None = None, *, keep_server: bool = True
    ) -> Catalog:
        """What opencode knows of a spec's model, agent and variant; asked once for each.

        A server that only this question needed is ended unless ``keep_server``. On the loop only.
        Raises InputError for what opencode does not know.
        """
        key = _catalog_key(spec, variant)
        async with self._locks.setdefault(key, asyncio.Lock()):
            return await self._catalog(key, spec, variant, keep_server=keep_server)

    def expect(self, spec: OpencodeSpec, variant: str | None, catalog: Future[Catalog]) -> None:
        """Have ``catalog`` wait for what another process asks; its own errors are raised there.

        Where that process fails otherwise, a server of this process is asked after all.
        """
        self._expected[_catalog_key(spec, variant)] = catalog

    async def _catalog(
        self, key: str, spec: OpencodeSpec, variant: str | None, *, keep_server: bool
    ) -> Catalog:
        if key in self._catalogs:
            return self._catalogs[key]
        if (expected := self._expected.pop(key, None)) is not None:
            try:
                self._catalogs[key] = await asyncio.wrap_future(expected)
            except (InputError, SetupError):
                raise
            except Exception:  # noqa: BLE001  whatever the worker died of, we can ask by ourselves
                _log.warning("a worker was to ask opencode, and failed", exc_info=True)
            else:
                return self._catalogs[key]
        was_there = self.rotation(spec).current is not None
        try:
            self._catalogs[key] = await read_catalog(
                await self.server(spec),
                model_ref=spec.model_ref,
                agent=spec.agent,
                variant=variant,
                version=await asyncio.to_thread(version_to_run, spec.binary),
                allowed=allowed_tools(spec),
                most_output_tokens=most_output_tokens(os.environ),
            )
        finally:
            if not keep_server and not was_there:
                await self.end_server(spec)
        return self._catalogs[key]

    async def end_server(self, spec: OpencodeSpec) -> None:
        """End the servers of a spec, if there are any; what they told is kept. On the loop only."""
        of_lanes = [one for (key, _), one in self._servers.items() if key == server_key(spec)]
        await asyncio.gather(*(one.aclose() for one in of_lanes))

    def one_owner(self, spec: OpencodeSpec) -> bool:
        """Whether the spec's provider is used by a login that only one server at a time may use."""
        provider = spec.model_ref.partition("/")[0] if spec.model_ref else None
        return Credentials(provider, spec.secrets).needs_owner

    def close(self) -> None:
        """End every server and the loop. Nothing happens where there is none; it can be used again."""
        with self._guard:
            if self._portal is None:
                return
            with contextlib.suppress(RuntimeError):
                self._portal.call(self._aclose)
            self._portal = None
            self._stack.close()

    def rotation(self, spec: OpencodeSpec, lane: int = 0) -> ServerRotation:
        """The servers of a spec in a lane, started or not. On the loop only."""
        key = (server_key(spec), lane)
        if key not in self._servers:
            self._servers[key] = ServerRotation(spec, self._limits or limits_in_force())
        return self._servers[key]

    async def _aclose(self) -> None:
        closing = [*self._servers.values(), *self._clis.values()]
        self._servers.clear()
        self._clis.clear()
        self._locks.clear()
        await asyncio.gather(*(one.aclose() for one in closing), return_exceptions=True)

    def _running(self) -> BlockingPortal:
        with self._guard:
            if self._portal is None:
                self._portal = self._stack.enter_context(start_blocking_portal("asyncio"))
                # The interpreter joins its threads before atexit's functions run: the loop's thread
                # must end before that, and the standard library names no public way.
                at_threads_end: Callable[..., None] = threading._register_atexit  # type: ignore[attr-defined]  # noqa: SLF001  see above
                at_threads_end(self.close)
                atexit.register(self.close)
            return self._portal


def server_key(spec: OpencodeSpec) -> str:
    """What two specs must share to share a server: all but the system text, which a message carries."""
    values = asdict(spec)
    values.pop("system")
    values["model_ref"] = spec.model_ref.partition("/")[0] if spec.model_ref else None
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _catalog_key(spec: OpencodeSpec, variant: str | None) -> str:
    return f"{server_key(spec)} {spec.model_ref} {variant}"


server_pool = ServerPool()
