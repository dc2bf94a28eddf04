"""The servers of one spec, one after another: a server grows with its rows, so a fresh one follows it.

The successor is started in the background while its predecessor goes on, so that no row waits for
it. New sessions go to it once it answers; those of the predecessor end there, second prompts
included, and with the last one recorded the predecessor is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.settings import settings
from opencode_tasks.system.node import memory_limit_bytes

logger = logging.getLogger(__name__)

MB = 1_000_000
# A server and its successor are there at once for a while.
SHARE_OF_LANE = 0.5
MIN_MEMORY_BYTES, MAX_MEMORY_BYTES = 1_500 * MB, 4_000 * MB
# A start costs the CPU time of about a hundred rows: a cap below what a fresh server needs must not
# have one follow the other all the time.
MIN_ROWS = 100
# Reading a process's memory costs little, but not nothing.
LOOK_EVERY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationLimits:
    """When a server has served long enough: after ``rows`` sessions, or above ``memory_bytes``.

    Memory is the resident one of its process; it counts after ``least_rows`` sessions only. A
    successor that did not start is tried again after ``again_s`` seconds.
    """

    rows: int
    memory_bytes: int
    least_rows: int = MIN_ROWS
    again_s: float = 60.0


def limits_in_force() -> RotationLimits:
    """When a server has served long enough, as the settings and this machine's memory have it."""
    told = settings()
    memory_bytes = SHARE_OF_LANE * memory_limit_bytes() / (os.cpu_count() or 1)
    if told.server_memory is not None:
        memory_bytes = told.server_memory * MB
    else:
        memory_bytes = min(MAX_MEMORY_BYTES, max(MIN_MEMORY_BYTES, memory_bytes))
    return RotationLimits(rows=told.server_rows, memory_bytes=int(memory_bytes))


class ServerRotation:
    """The current server of a spec, and former ones that still have sessions. On one event loop."""

    def __init__(self, spec: OpencodeSpec, limits: RotationLimits) -> None:
        self.current: OpencodeServer | None = None
        self._spec = spec
        self._limits = limits
        self._former: set[OpencodeServer] = set()
        self._successor: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._not_before = 0.0
        self._lock = asyncio.Lock()

    async def live(self) -> OpencodeServer:
        """The server for new sessions, started where none lives. Raises SetupError if it does not start."""
        async with self._lock:
            if self.current is not None and not self.current.is_alive and self._successor is not None:
                await asyncio.wait({self._successor})
            server = self.current
            if server is None or not server.is_alive or self._must_be_replaced(server):
                if server is not None:
                    self.current = None
                    self._former.add(server)
                    await self._close(server)
                server = self.current = await OpencodeServer.start(self._spec)
            return server

    @contextlib.asynccontextmanager
    async def using(self, session_id: str | None) -> AsyncGenerator[OpencodeServer]:
        """The server that holds a session, or the one for a new session (None), kept open meanwhile."""
        server = self.holder(session_id) if session_id is not None else None
        if server is None:
            server = await self.live()
            server.claimed += 1
            if self._successor is None and self._is_due(server):
                self._successor = asyncio.create_task(self._succeed())
        server.users += 1
        try:
            yield server
        finally:
            server.users -= 1
            self._close_if_idle(server)

    def holder(self, session_id: str) -> OpencodeServer | None:
        """The server that holds a session which is not recorded yet; None where none does."""
        servers = [*self._former, self.current] if self.current else [*self._former]
        return next((server for server in servers if session_id in server.unrecorded), None)

    def recorded(self, session_id: str) -> None:
        """Forget a session; a former server goes with its last one."""
        server = self.holder(session_id)
        if server is not None:
            server.let_go(session_id)
            self._close_if_idle(server)

    async def aclose(self) -> None:
        """End every server; an unrecorded session's data stays until it is recorded."""
        if self._successor is not None:
            self._successor.cancel()
            await asyncio.gather(self._successor, return_exceptions=True)
        if self.current is not None:
            self._former.add(self.current)
            self.current = None
        ending = [self._close(server) for server in self._former if not server.is_closing]
        await asyncio.gather(*ending, *self._closing, return_exceptions=True)

    def _has_grown(self, server: OpencodeServer) -> bool:
        limits, claimed = self._limits, server.claimed
        if claimed >= limits.rows:
            return True
        is_time = claimed >= limits.least_rows and claimed % LOOK_EVERY == 0
        return is_time and server.memory_bytes > limits.memory_bytes

    def _must_be_replaced(self, server: OpencodeServer) -> bool:
        """Whether a server that cannot have one beside it has grown, and has nothing to do just now."""
        return server.owns_login and server.is_idle and self._has_grown(server)

    def _is_due(self, server: OpencodeServer) -> bool:
        """Whether a successor is to be started now: there are two servers at once, at most."""
        if server.owns_login or time.monotonic() < self._not_before or not self._has_grown(server):
            return False
        for former in self._former:
            if former.users:
                return False
            if not former.is_closing:
                # What was never recorded must not keep a process; its data stays.
                self._close_soon(former)
        return True

    async def _succeed(self) -> None:
        """Start the successor and let it take over; the old server goes on where it does not start."""
        try:
            successor = await OpencodeServer.start(self._spec)
        except Exception as error:  # noqa: BLE001  whatever it is, rows go on without it
            self._not_before = time.monotonic() + self._limits.again_s
            logger.warning("a fresh opencode server did not start, the old one goes on: %s", error)
            return
        finally:
            self._successor = None
        former, self.current = self.current, successor
        if former is not None:
            self._former.add(former)
            self._close_if_idle(former)

    def _close_if_idle(self, server: OpencodeServer) -> None:
        """Close a former server that has nothing left to do."""
        if server in self._former and server.is_idle:
            self._close_soon(server)

    def _close_soon(self, server: OpencodeServer) -> None:
        task = asyncio.create_task(self._close(server))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, server: OpencodeServer) -> None:
        await server.aclose()
        if server.is_idle:
            self._former.discard(server)
