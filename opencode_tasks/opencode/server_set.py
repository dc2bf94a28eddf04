"""Server set: the servers of one spec in this process. A new session goes to the least busy of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator

from opencode_tasks.opencode.backend import KeptSession, OpencodeSpec
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.opencode.server_rotation import RotationLimits, ServerRotation


class ServerSet:
    """One server, or more while a batch asks for them. Used on one event loop.

    If one of several servers ends, the others get the new sessions until its successor runs.

    Attributes:
        rotations: The servers by place: each place has its current server and former ones.
    """

    def __init__(self, spec: OpencodeSpec, limits: RotationLimits) -> None:
        self.rotations: list[ServerRotation] = [ServerRotation(spec, limits)]
        self._spec = spec
        self._limits = limits
        self._sizes: list[int] = []

    @property
    def current(self) -> OpencodeServer | None:
        """The server for the next new session; None if none runs."""
        return self._least_busy().current

    @property
    def is_busy(self) -> bool:
        """Whether a server starts or works on a request."""
        return any(rotation.is_busy for rotation in self.rotations)

    @property
    def has_process(self) -> bool:
        """Whether a server was started and not ended since."""
        return any(rotation.current for rotation in self.rotations)

    @property
    def has_exclusive_login(self) -> bool:
        """Whether a running server uses a login that only one server at a time may use."""
        servers = [rotation.current for rotation in self.rotations]
        return any(server is not None and server.has_exclusive_login for server in servers)

    @contextlib.contextmanager
    def at_least(self, size: int) -> Generator[None]:
        """Divide the new sessions among ``size`` servers during the block, or among more if others ask so."""
        self._sizes.append(size)
        missing = size - len(self.rotations)
        self.rotations += [ServerRotation(self._spec, self._limits) for _ in range(missing)]
        try:
            yield
        finally:
            self._sizes.remove(size)

    async def running_server(self) -> OpencodeServer:
        """Server for a new session, started if none runs; further ones start in the background.

        Raises SetupError if no server runs and it does not start.
        """
        return await self._next().running_server()

    @contextlib.asynccontextmanager
    async def use(self, session_id: str | None) -> AsyncGenerator[OpencodeServer]:
        """Keep a server open for the block: the one with the session, or one for a new session (None).

        Raises SetupError if a server is needed and does not start.
        """
        async with (self._with_session(session_id) or self._next()).use(session_id) as server:
            yield server

    def server_with(self, session_id: str) -> OpencodeServer | None:
        """Server with an unrecorded session; None if no server has it."""
        rotation = self._with_session(session_id)
        return rotation.server_with(session_id) if rotation is not None else None

    def mark_recorded(self, session_id: str) -> None:
        """Forget a session that is recorded. A former server is closed with its last session."""
        rotation = self._with_session(session_id)
        if rotation is not None:
            rotation.mark_recorded(session_id)

    async def take_session(self, kept: KeptSession, attempt_id: str) -> bool:
        """Take a kept session for an attempt; a server is started over its data if none has it.

        False if the data is not there, or if no server starts over it. Raises OSError if the disk fails.
        """
        rotation = self._with_session(kept.session_id) or self.rotations[0]
        return await rotation.take_session(kept, attempt_id)

    async def aclose(self) -> None:
        """End every server. A server that is needed later is started again."""
        await asyncio.gather(*(rotation.aclose() for rotation in self.rotations))

    def _with_session(self, session_id: str | None) -> ServerRotation | None:
        if session_id is None:
            return None
        return next((one for one in self.rotations if one.server_with(session_id)), None)

    def _wanted(self) -> list[ServerRotation]:
        return self.rotations[: max(self._sizes, default=1)]

    def _least_busy(self) -> ServerRotation:
        running = [rotation for rotation in self.rotations if rotation.is_running]
        return min(running or self._wanted(), key=lambda rotation: rotation.load)

    def _next(self) -> ServerRotation:
        """The place for a new session; the other servers that are wanted are started if they do not run."""
        chosen = self._least_busy()
        for rotation in self._wanted():
            if rotation is not chosen:
                rotation.start_soon()
        return chosen
