"""Rotation of a server: it grows with its rows, so a new one replaces it.

The successor starts in the background while its predecessor works, so that no row waits for it. When it
answers, new sessions go to it. The sessions of the predecessor end there, later prompts included, and the
predecessor is closed when its last session is recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import KeptSession, OpencodeSpec
from opencode_tasks.opencode.kept_sessions import is_kept, take_session
from opencode_tasks.opencode.leftovers import instance_dir_of
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.settings import settings
from opencode_tasks.system.ray_node import memory_limit_bytes

MB = 1_000_000
# A server and its successor run at the same time for a while.
SHARE_OF_CPU = 0.5
MIN_MEMORY_BYTES, MAX_MEMORY_BYTES = 1_500 * MB, 4_000 * MB
# A start costs the CPU time of about a hundred rows. A memory limit below the size of a new server must
# not replace servers all the time.
MIN_ROWS = 100
# Reading the memory of a process has a small cost.
MEMORY_CHECK_ROWS = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationLimits:
    """When a server is replaced: after ``rows`` sessions, or above ``memory_bytes`` of resident memory.

    Memory counts after ``min_rows`` sessions. If a successor does not start, the next one is started after
    ``retry_delay_s`` seconds.
    """

    rows: int
    memory_bytes: int
    min_rows: int = MIN_ROWS
    retry_delay_s: float = 60.0


def limits_in_force() -> RotationLimits:
    """Limits from the settings, or from the memory of this machine if the settings name none."""
    current = settings()
    memory_bytes = SHARE_OF_CPU * memory_limit_bytes() / (os.cpu_count() or 1)
    if current.server_memory is not None:
        memory_bytes = current.server_memory * MB
    else:
        memory_bytes = min(MAX_MEMORY_BYTES, max(MIN_MEMORY_BYTES, memory_bytes))
    return RotationLimits(rows=current.server_rows, memory_bytes=int(memory_bytes))


class ServerRotation:
    """Current server in one place, and former servers that still have sessions. Used on one event loop.

    Attributes:
        current: Server for new sessions; None before the first one.
        load: Number of requests, including those that wait for the start of a server.
    """

    def __init__(self, spec: OpencodeSpec, limits: RotationLimits) -> None:
        self.current: OpencodeServer | None = None
        self.load: int = 0
        self._spec = spec
        self._limits = limits
        self._former: set[OpencodeServer] = set()
        self._successor: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._not_before = 0.0
        self._lock = asyncio.Lock()
        self._reopening = asyncio.Lock()

    async def running_server(self) -> OpencodeServer:
        """Server for new sessions, started if none runs. Raises SetupError if it does not start."""
        async with self._lock:
            if not self.is_running and self._successor is not None:
                await asyncio.wait({self._successor})
            server = self.current
            if server is None or not server.is_running or self._must_be_replaced(server):
                if server is not None:
                    self.current = None
                    self._former.add(server)
                    await self._close(server)
                server = self.current = await OpencodeServer.start(self._spec)
            return server

    @contextlib.asynccontextmanager
    async def use(self, session_id: str | None) -> AsyncGenerator[OpencodeServer]:
        """Keep a server open for the block: the one with the session, or one for a new session (None).

        Raises SetupError if a server is needed and does not start.
        """
        self.load += 1
        try:
            server = self.server_with(session_id) if session_id is not None else None
            if server is None:
                server = await self.running_server()
                server.session_count += 1
                if self._successor is None and self._needs_successor(server):
                    self._successor = asyncio.create_task(self._start_successor())
            server.active_requests += 1
            try:
                yield server
            finally:
                server.active_requests -= 1
                self._close_if_idle(server)
        finally:
            self.load -= 1

    def start_soon(self) -> None:
        """Start a server in the background if none runs. If it does not start, that is logged."""
        is_starting = self._lock.locked() or self._successor is not None
        if not self.is_running and not is_starting and time.monotonic() >= self._not_before:
            self._successor = asyncio.create_task(self._start_successor())

    def server_with(self, session_id: str) -> OpencodeServer | None:
        """Server with an unrecorded session; None if no server has it."""
        servers = [*self._former, self.current] if self.current else [*self._former]
        return next((server for server in servers if session_id in server.unrecorded), None)

    def mark_recorded(self, session_id: str) -> None:
        """Forget a session that is recorded. A former server is closed with its last session."""
        server = self.server_with(session_id)
        if server is not None:
            server.mark_recorded(session_id)
            self._close_if_idle(server)

    async def take_session(self, kept: KeptSession, attempt_id: str) -> bool:
        """Take a kept session for an attempt; a server is started over its data if none has it.

        False if the data is not there, or if no server starts over it. Raises OSError if the disk fails.
        """
        instance_dir = instance_dir_of(kept.data_dir)
        async with self._reopening:
            servers = [*self._former, self.current] if self.current else [*self._former]
            found = [server for server in servers if server.instance_dir.root == instance_dir.root]
            for server in found:
                if server.is_running and not server.is_closing:
                    if not is_kept(instance_dir, kept):
                        return False
                    if kept.session_id not in server.unrecorded:
                        server.reopened.add(kept.session_id)
                    server.mark_unrecorded(kept.session_id, attempt_id)
                    return True
                # It has died: its directory is locked until it is closed.
                await server.aclose()
                server.unrecorded.discard(kept.session_id)
            take = functools.partial(take_session, instance_dir, kept, attempt_id, user_config=True)
            if not await asyncio.to_thread(take):
                return False
            try:
                server = await OpencodeServer.start(self._spec, over=instance_dir, has_logins=True)
            except SetupError as error:
                _log.warning("no opencode server started over %s: %s", instance_dir.root, error)
                return False
            server.reopened.add(kept.session_id)
            server.mark_unrecorded(kept.session_id, attempt_id)
            self._former.add(server)
            return True

    @property
    def is_running(self) -> bool:
        """Whether the current server runs."""
        return self.current is not None and self.current.is_running

    @property
    def is_busy(self) -> bool:
        """Whether a server starts or works on a request. Its unrecorded sessions need no process."""
        servers = [*self._former, self.current] if self.current else [*self._former]
        is_starting = self._lock.locked() or self._successor is not None
        return is_starting or any(server.active_requests for server in servers)

    async def aclose(self) -> None:
        """End every server. The data of an unrecorded session stays until the session is recorded.

        A server that is needed meanwhile starts when the others have ended.
        """
        await self._cancel_successor()
        async with self._lock:
            await self._cancel_successor()
            if self.current is not None:
                self._former.add(self.current)
                self.current = None
            ending = [self._close(server) for server in self._former if not server.is_closing]
            await asyncio.gather(*ending, *self._closing, return_exceptions=True)

    async def _cancel_successor(self) -> None:
        if self._successor is not None:
            self._successor.cancel()
            await asyncio.gather(self._successor, return_exceptions=True)

    def _is_over_limit(self, server: OpencodeServer) -> bool:
        limits, count = self._limits, server.session_count
        if count >= limits.rows:
            return True
        checks_memory = count >= limits.min_rows and count % MEMORY_CHECK_ROWS == 0
        return checks_memory and server.memory_bytes > limits.memory_bytes

    def _must_be_replaced(self, server: OpencodeServer) -> bool:
        """Whether an idle server over its limit must end before its successor starts.

        That is so for a server with an exclusive login: a second server could not use the login.
        """
        return server.has_exclusive_login and server.is_idle and self._is_over_limit(server)

    def _needs_successor(self, server: OpencodeServer) -> bool:
        """Whether to start a successor now. At most two servers work at the same time."""
        if server.has_exclusive_login or time.monotonic() < self._not_before:
            return False
        if not self._is_over_limit(server):
            return False
        for former in self._former:
            if former.active_requests:
                return False
            if not former.is_closing:
                # A session that is never recorded must not keep a process; its data stays.
                self._close_soon(former)
        return True

    async def _start_successor(self) -> None:
        """Start a server and make it the current one. If it does not start, the old one stays."""
        try:
            successor = await OpencodeServer.start(self._spec)
        except Exception as error:  # noqa: BLE001  rows continue on other servers whatever the error is
            self._not_before = time.monotonic() + self._limits.retry_delay_s
            _log.warning("a new opencode server did not start, those that run stay in use: %s", error)
            return
        finally:
            self._successor = None
        former, self.current = self.current, successor
        if former is not None:
            self._former.add(former)
            if former.is_running:
                self._close_if_idle(former)
            else:
                self._close_soon(former)

    def _close_if_idle(self, server: OpencodeServer) -> None:
        """Close a former server that has no request and no unrecorded session."""
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
