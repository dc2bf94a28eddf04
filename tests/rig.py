"""Requests through the real opencode to a scripted provider, and their results."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import pytest

from opencode_tasks.domain.cost import PriceBook
from opencode_tasks.domain.records import Answer, AttemptRecord
from opencode_tasks.engine.ask import ask
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.opencode.backend import (
    DEFAULT_AGENT,
    Backend,
    BackendName,
    Clocks,
    OpencodeSpec,
    Request,
)
from opencode_tasks.opencode.cli_backend import CliBackend
from opencode_tasks.opencode.config import merge
from opencode_tasks.opencode.model_catalogue import read_catalogue
from opencode_tasks.opencode.model_prices import model_prices
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.opencode.server_backend import ServerBackend
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.plan.answer_format import MAX_REPAIRS, answer_format
from opencode_tasks.testing import Call, Reply, ScriptedProvider
from opencode_tasks.testing.scripted_backend import ScriptedBackend, scripted_catalog

# The backends that run opencode. A row of "cli" starts two processes of opencode, which takes seconds: most
# behaviour that does not depend on the backend is tried with "server" alone outside of `make nightly`.
BOTH = ["server", pytest.param("cli", marks=pytest.mark.slow)]
RARELY_CLI = ["server", pytest.param("cli", marks=pytest.mark.nightly)]
TestedBackend = BackendName | Literal["scripted"]
CLOCKS = Clocks(first_event_s=40, stall_s=40, total_s=90)
BASH = ("bash", {"command": "echo stepped", "description": "say a word"})
# A user's own value in the header that opencode names the session in.
PINNED: dict[str, Any] = {"headers": {"x-session-affinity": "team-7"}}
Failure = TypeVar("Failure", bound=OpenCodeError)

AGENTS: dict[str, Any] = {
    "asker": {"mode": "primary", "prompt": "You ask first.", "permission": {"bash": "ask"}},
    "worker": {
        "mode": "primary",
        "prompt": "You work.",
        "tools": {"*": False, "bash": True},
        "permission": {"bash": "allow"},
    },
    "boss": {
        "mode": "primary",
        "prompt": "You hand work on.",
        "tools": {"*": False, "task": True},
        "permission": {"task": "allow"},
    },
    "hand": {
        "mode": "subagent",
        "prompt": "You are a hand.",
        "description": "Does one thing.",
        "tools": {"*": False},
    },
    "plain": {"mode": "primary", "prompt": "You are the plain agent of the config.", "tools": {"*": False}},
}

# What a scripted prompt consists of.
TOKEN = re.compile(r"row-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one prompt came to: an answer or an error, and the provider calls it made."""

    answer: Answer | None
    error: OpenCodeError | None
    calls: list[Call]
    seconds: float
    at: float

    @property
    def text(self) -> str:
        """The answer's text; raises the error where there is none."""
        return self.good.text

    @property
    def good(self) -> Answer:
        if self.answer is None:
            assert self.error is not None
            raise self.error
        return self.answer

    def failed(self, kind: type[Failure]) -> Failure:
        """The error, of exactly this class."""
        assert type(self.error) is kind, self.error or self.answer
        return self.error

    @property
    def attempt(self) -> AttemptRecord:
        record: AttemptRecord | None = (
            self.answer.attempt if self.answer else self.error and self.error.attempt
        )
        assert record is not None
        return record


class DeadEnds:
    """Two addresses: ``refuses`` has nothing that listens, ``resets`` breaks off each connection."""

    def __init__(self) -> None:
        self._refuses = socket.socket()
        self._refuses.bind(("127.0.0.1", 0))
        self._resets = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._reset_all, daemon=True)
        self._thread.start()
        self.connections = 0

    def config(self) -> dict[str, Any]:
        """Providers ``refuses`` and ``resets`` with a model ``echo``."""
        ends = {"refuses": self._refuses, "resets": self._resets}
        return {"provider": {name: self._provider(end.getsockname()[1]) for name, end in ends.items()}}

    def close(self) -> None:
        self._refuses.close()
        self._resets.shutdown(socket.SHUT_RDWR)
        self._resets.close()
        self._thread.join(5)

    def _provider(self, port: int) -> dict[str, Any]:
        options = {"baseURL": f"http://127.0.0.1:{port}/v1", "apiKey": "sk-test"}
        return {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {"echo": {}}}

    def _reset_all(self) -> None:
        while True:
            try:
                connection, _ = self._resets.accept()
            except OSError:
                return
            connection.recv(1024)
            self.connections += 1
            # Closing with a linger of 0 sends RST instead of FIN.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


class Rig:
    """A provider, the spec that knows it, and ways to ask through it."""

    def __init__(
        self, binary: Path, *, use_plugin: bool = True, extra: Mapping[str, Any] | None = None
    ) -> None:
        self.provider = ScriptedProvider()
        self.dead_ends = DeadEnds()
        config = merge(self.provider.opencode_config(), self.dead_ends.config())
        config = merge(config, {"agent": AGENTS, "provider": {"fake": {"models": {"pinned": PINNED}}}})
        self.spec = OpencodeSpec(
            binary=binary,
            config=merge(config, extra or {}),
            model_ref="fake/echo",
            clocks=CLOCKS,
            use_plugin=use_plugin,
        )
        self._cli: CliBackend | None = None
        self._scripted: ScriptedBackend | None = None
        self._prices: PriceBook | None = None

    def configure(self, extra: Mapping[str, Any]) -> None:
        """Add to the opencode config, before the first prompt."""
        self.spec = replace(self.spec, config=merge(self.spec.config, extra))

    def __enter__(self) -> Self:
        self.provider.start()
        return self

    def __exit__(self, *_: object) -> None:
        server_pool.call(self._aclose)
        self.provider.stop()
        self.dead_ends.close()

    def ask(
        self,
        *replies: Reply,
        prompt: str | None = None,
        backend: TestedBackend = "server",
        clocks: Clocks | None = None,
        agent: str = DEFAULT_AGENT,
        system: str | None = "Be brief.",
        model: str = "fake/echo",
        schema: Mapping[str, Any] | None = None,
        max_repairs: int = MAX_REPAIRS,
        max_cost_pico: int | None = None,
        variant: str | None = None,
    ) -> Asked:
        """Send a prompt; the provider gives ``replies`` to its calls, the last one to all further calls.

        Without replies it echoes, and the prompt may be any text.
        """
        token = f"row-{uuid.uuid4().hex}"
        if replies:
            assert prompt is None, "a scripted prompt names itself"
            prompt = token
            self.provider.on(lambda call: token in json.dumps(call.body), *replies)
        request = Request(
            prompt=prompt if prompt is not None else token,
            model_ref=model,
            agent=agent,
            system=system,
            max_cost_pico=max_cost_pico,
            prices=self.prices(backend) if max_cost_pico is not None else PriceBook(),
            variant=variant,
        )
        spec = replace(self.spec, clocks=clocks or self.spec.clocks)
        before = len(self.provider.calls)
        at, started = time.time(), time.monotonic()

        async def once() -> Answer:
            way = await self.backend(backend, spec)
            nonlocal at, started
            at, started = time.time(), time.monotonic()
            sessions: list[str] = []
            try:
                return await ask(
                    way,
                    request,
                    node_id="node",
                    on_session=sessions.append,
                    answer_format=answer_format(schema, None, max_repairs),
                )
            finally:
                for session_id in sessions[-1:]:
                    way.release_session(session_id)

        answer, error = None, None
        try:
            answer = server_pool.call(once)
        except OpenCodeError as caught:
            error = caught
        seconds = time.monotonic() - started
        calls = self.provider.calls[before:]
        if replies:
            # Other prompts may be in flight. The calls of a sub-agent name no prompt.
            calls = [call for call in calls if TOKEN.findall(json.dumps(call.body))[:1] in ([], [token])]
        return Asked(answer=answer, error=error, calls=calls, seconds=seconds, at=at)

    def prices(self, backend: TestedBackend = "server") -> PriceBook:
        """The prices of all models of the config."""
        if backend == "scripted":
            return PriceBook(configured=scripted_catalog(self.provider, "fake/echo").prices)
        if self._prices is None:

            async def read() -> PriceBook:
                server = await self.server()
                config, providers = await server.get("/config"), await server.get("/config/providers")
                with_tiers = merge(config, self.spec.config)
                listed = [one["id"] for one in providers["providers"]]
                catalogue = read_catalogue(self.spec.binary, listed)
                return PriceBook(configured=model_prices(with_tiers, providers, catalogue))

            self._prices = server_pool.call(read)
        return self._prices

    async def backend(self, name: TestedBackend, spec: OpencodeSpec) -> Backend:
        """A backend with the spec's clocks over what is shared. On the warm loop only."""
        if name == "scripted":
            if self._scripted is None:
                self._scripted = ScriptedBackend(self.provider, spec)
            self._scripted.spec = spec
            return self._scripted
        if name == "server":
            await self.server()
            return ServerBackend(server_pool.servers(self.spec), spec, frozenset({"fake/unpriced"}))
        if self._cli is None:
            self._cli = CliBackend(self.spec, frozenset({"fake/unpriced"}))
        self._cli._spec = spec
        return self._cli

    async def server(self) -> OpencodeServer:
        """The live server. On the warm loop only."""
        return await server_pool.server(self.spec)

    async def _aclose(self) -> None:
        await server_pool.end_server(self.spec)
        for backend in (self._cli, self._scripted):
            if backend is not None:
                await backend.aclose()


class Served(Rig):
    """As a run has it."""


class Unplugged(Rig):
    """Without the plugin, so that opencode's own retries and waits show."""

    def __init__(self, binary: Path) -> None:
        super().__init__(binary, use_plugin=False)
