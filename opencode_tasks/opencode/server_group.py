"""Server group: the servers, backends and catalogs of one spec, while its surroundings stay as they are."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Generator, Sequence

from opencode_tasks.domain.sandbox import SandboxSpec
from opencode_tasks.opencode.backend import Backend, BackendName, OpencodeSpec
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.opencode.server_key import ServerKey
from opencode_tasks.opencode.server_rotation import RotationLimits
from opencode_tasks.opencode.server_set import ServerSet

# Groups that may have idle servers at the same time. A server has 0.7 to 1 GB.
MAX_IDLE_GROUPS = 2


class ServerGroup:
    """Servers, backends and catalogs of the rows with one server key. Used on one event loop.

    Attributes:
        key: Server key of the rows.
        servers: Servers of the rows, running or not.
        is_superseded: Whether the surroundings have changed, so that new rows go to another group.
        catalogs: Catalogs by model and variant.
        locks: Locks of the catalogs while they are read.
        last_used: Time of the monotonic clock at which the group was used last.
    """

    def __init__(self, key: ServerKey, spec: OpencodeSpec, limits: RotationLimits) -> None:
        self.key = key
        self.servers: ServerSet = ServerSet(spec, limits)
        self.is_superseded = False
        self.catalogs: dict[tuple[str | None, str | None], Catalog] = {}
        self.locks: dict[tuple[str | None, str | None], asyncio.Lock] = {}
        self.last_used: float = time.monotonic()
        self._backends: dict[tuple[BackendName, SandboxSpec | None], Backend] = {}
        self._users = 0

    @property
    def is_used(self) -> bool:
        """Whether a batch or a prompt keeps the group."""
        return self._users > 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing keeps the group and no request is in flight."""
        return not self.is_used and not self.servers.is_busy

    @property
    def has_processes(self) -> bool:
        """Whether a server runs, or another backend that keeps a process."""
        return bool(self._backends) or self.servers.has_process

    @contextlib.contextmanager
    def use(self, servers: int = 1) -> Generator[None]:
        """Keep the servers and backends for the block, with at least this number of servers."""
        self._users += 1
        try:
            with self.servers.at_least(servers):
                yield
        finally:
            self._users -= 1
            self.last_used = time.monotonic()

    async def backend(self, spec: OpencodeSpec, name: BackendName, unpriced: frozenset[str]) -> Backend:
        """The backend of this name. Raises SetupError if it needs a server and that does not start."""
        kind = BACKENDS[name]
        if kind.uses_servers:
            await self.servers.running_server()
        # Runs with the same servers may have other sandboxes, in which no server is.
        key = (name, spec.sandbox)
        if key not in self._backends:
            self._backends[key] = kind.create(spec, unpriced, self.servers)
        return self._backends[key]

    async def aclose(self) -> None:
        """End the servers and backends; the catalogs stay. They are made again if they are needed."""
        backends = list(self._backends.values())
        self._backends.clear()
        await asyncio.gather(*(item.aclose() for item in (self.servers, *backends)), return_exceptions=True)


def groups_to_end(groups: Collection[ServerGroup], now: float, idle_s: float) -> Sequence[ServerGroup]:
    """The idle groups whose processes are not kept at ``now``, on the monotonic clock.

    They are the superseded ones, those that were idle for ``idle_s`` seconds, and of the others all but the
    ``MAX_IDLE_GROUPS`` that were used last.
    """
    idle = [group for group in groups if group.has_processes and group.is_idle]
    idle.sort(key=lambda group: group.last_used, reverse=True)
    kept = [group for group in idle if not group.is_superseded and now - group.last_used < idle_s]
    return [group for group in idle if group not in kept[:MAX_IDLE_GROUPS]]
