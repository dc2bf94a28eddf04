"""Server group: the servers, backends and catalogs of one spec, while its surroundings stay as they are."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Collection, Generator, Sequence

from opencode_tasks.opencode.backend import Backend, BackendName, OpencodeSpec
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.opencode.server_key import ServerKey
from opencode_tasks.opencode.server_rotation import RotationLimits, ServerRotation

# Groups that may have idle servers at the same time. A server has 0.7 to 1 GB.
MAX_IDLE_GROUPS = 2


class ServerGroup:
    """Servers, backends and catalogs of the rows with one server key. Used on one event loop.

    A *lane* is the number of a batch that has a server for itself.

    Attributes:
        key: Server key of the rows.
        is_superseded: Whether the surroundings have changed, so that new rows go to another group.
        catalogs: Catalogs by model and variant.
        locks: Locks of the catalogs while they are read.
        last_used: Time of the monotonic clock at which the group was used last.
    """

    def __init__(self, key: ServerKey, spec: OpencodeSpec, limits: RotationLimits) -> None:
        self.key = key
        self.is_superseded = False
        self.catalogs: dict[tuple[str | None, str | None], Catalog] = {}
        self.locks: dict[tuple[str | None, str | None], asyncio.Lock] = {}
        self.last_used: float = time.monotonic()
        self._spec = spec
        self._limits = limits
        self._rotations: dict[int, ServerRotation] = {}
        self._backends: dict[tuple[BackendName, int], Backend] = {}
        self._lanes: set[int] = set()
        self._users = 0

    @property
    def is_used(self) -> bool:
        """Whether a batch or a prompt keeps the group."""
        return self._users > 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing keeps the group and no request is in flight."""
        return not self.is_used and not any(rotation.is_busy for rotation in self._rotations.values())

    @property
    def has_processes(self) -> bool:
        """Whether a server runs, or another backend that keeps a process."""
        return bool(self._backends) or any(rotation.current for rotation in self._rotations.values())

    @property
    def has_exclusive_login(self) -> bool:
        """Whether a running server uses a login that only one server at a time may use."""
        servers = [rotation.current for rotation in self._rotations.values()]
        return any(server is not None and server.has_exclusive_login for server in servers)

    @contextlib.contextmanager
    def use(self) -> Generator[None]:
        """Keep the servers and backends for the block."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self.last_used = time.monotonic()

    @contextlib.contextmanager
    def lane(self) -> Generator[int]:
        """Reserve the lowest free lane for the block."""
        lane = next(number for number in itertools.count() if number not in self._lanes)
        self._lanes.add(lane)
        try:
            yield lane
        finally:
            self._lanes.discard(lane)

    def rotation(self, lane: int = 0) -> ServerRotation:
        """The servers of a lane, running or not."""
        self.last_used = time.monotonic()
        if lane not in self._rotations:
            self._rotations[lane] = ServerRotation(self._spec, self._limits)
        return self._rotations[lane]

    async def backend(
        self, spec: OpencodeSpec, name: BackendName, unpriced: frozenset[str], lane: int
    ) -> Backend:
        """The backend of this name. Raises SetupError if it needs a server and that does not start."""
        kind = BACKENDS[name]
        servers = self.rotation(lane)
        if kind.uses_servers:
            await servers.running_server()
        key = (name, lane if kind.uses_servers else 0)
        if key not in self._backends:
            self._backends[key] = kind.create(spec, unpriced, servers)
        return self._backends[key]

    async def end_servers(self) -> None:
        """End the servers of all lanes. A server that is needed later is started again."""
        await asyncio.gather(*(rotation.aclose() for rotation in self._rotations.values()))

    async def aclose(self) -> None:
        """End the servers and backends; the catalogs stay. They are made again if they are needed."""
        backends = list(self._backends.values())
        self._backends.clear()
        closing = [*self._rotations.values(), *backends]
        await asyncio.gather(*(item.aclose() for item in closing), return_exceptions=True)


def groups_to_end(groups: Collection[ServerGroup], now: float, idle_s: float) -> Sequence[ServerGroup]:
    """The idle groups whose processes are not kept at ``now``, on the monotonic clock.

    They are the superseded ones, those that were idle for ``idle_s`` seconds, and of the others all but the
    ``MAX_IDLE_GROUPS`` that were used last.
    """
    idle = [group for group in groups if group.has_processes and group.is_idle]
    idle.sort(key=lambda group: group.last_used, reverse=True)
    kept = [group for group in idle if not group.is_superseded and now - group.last_used < idle_s]
    return [group for group in idle if group not in kept[:MAX_IDLE_GROUPS]]
