"""A server that has served long is followed by a fresh one, and no row notices."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from opencode_tasks.domain.records import Answer
from opencode_tasks.engine.ask import ask
from opencode_tasks.opencode.backend import Backend, OnSession, OpencodeSpec, Request
from opencode_tasks.opencode.instance_dir import InstanceDir, instance_dirs_root
from opencode_tasks.opencode.leftovers import (
    finished_result,
    instance_dir_of,
    is_orphaned,
    read_orphaned_sessions,
)
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.opencode.server_backend import ServerBackend
from opencode_tasks.opencode.server_pool import ServerPool
from opencode_tasks.opencode.server_rotation import RotationLimits
from opencode_tasks.outcomes.backend_result import SessionResult
from opencode_tasks.plan.answer_format import MAX_REPAIRS, answer_format
from opencode_tasks.testing import Reply, ScriptedProvider

LIMIT_S = 60.0
NEVER = 1 << 60
ROWS_UNTIL_ONE_STARTS = 20
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

# A wrapper of opencode that does not serve while the file beside it is there.
UNWILLING = """#!/bin/sh
if [ "$1" = serve ] && [ -e "{flag}" ]; then echo "the disk is full"; exit 1; fi
exec "{binary}" "$@"
"""

# It asks three rows that hang on a server that is followed by another after one of them.
OWNER = """
import asyncio, json, sys
from pathlib import Path
from opencode_tasks.opencode.backend import OpencodeSpec, Request
from opencode_tasks.opencode.server_rotation import RotationLimits
from opencode_tasks.plan.answer_format import MAX_REPAIRS, answer_format
from opencode_tasks.opencode.server_pool import ServerPool

spec = OpencodeSpec(binary=Path(sys.argv[1]), config=json.loads(sys.argv[2]), model_ref="fake/echo")
server_pool = ServerPool(RotationLimits(rows=1, memory_bytes=1 << 60))

async def one(prompt):
    async with server_pool.use(spec, "server", frozenset()) as backend:
        def tell(session_id):
            print(json.dumps([prompt, session_id, str(backend.data_dir(session_id))]), flush=True)
        await backend.run(Request(prompt=prompt, model_ref="fake/echo"), tell)

async def all():
    servers = server_pool.servers(spec)
    old = await servers.running_server()
    # Both begin at once: the first of them has the successor started, which takes seconds.
    rows = [asyncio.create_task(one(prompt)) for prompt in ("hangs on the old one", "done on the old one")]
    await rows[1]
    while servers.current is old:
        await asyncio.sleep(0.05)
    await one("done on the new one")
    await one("hangs on the new one")

server_pool.call(all)
"""


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def spec(opencode_binary: Path, provider: ScriptedProvider) -> OpencodeSpec:
    return OpencodeSpec(binary=opencode_binary, config=provider.opencode_config(), model_ref="fake/echo")


class Asker:
    """Warm servers with limits of the test's own, and rows through them."""

    def __init__(self, spec: OpencodeSpec, **limits: Any) -> None:
        self.spec = spec
        self.server_pool = ServerPool(RotationLimits(**({"rows": NEVER, "memory_bytes": NEVER} | limits)))
        self.seen: list[OpencodeServer] = []

    async def row(self, prompt: str, schema: dict[str, Any] | None = None) -> Answer:
        sessions: list[str] = []
        request = Request(prompt=prompt, model_ref="fake/echo")
        async with self.server_pool.use(self.spec, "server", frozenset()) as backend:
            try:
                wanted = answer_format(schema, None, MAX_REPAIRS)
                return await ask(
                    backend, request, node_id="n", on_session=sessions.append, answer_format=wanted
                )
            finally:
                backend.release_session(sessions[-1])
                self.note()

    def note(self) -> None:
        current = self.server_pool.servers(self.spec).current
        if current is not None and current not in self.seen:
            self.seen.append(current)

    async def rows(self, prompts: list[str], at_once: int = 8) -> list[str]:
        """The answers; the servers that were current meanwhile are in ``seen``."""
        waiting = asyncio.Semaphore(at_once)

        async def one(prompt: str) -> str:
            async with waiting:
                return (await self.row(prompt)).text

        return await asyncio.gather(*map(one, prompts))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not holds():  # noqa: ASYNC110  what is waited for happens in other processes too
                await asyncio.sleep(0.05)

    async def followed(self, old: OpencodeServer) -> OpencodeServer:
        """The next server once it has taken over."""
        await self.until(lambda: self.server_pool.servers(self.spec).current is not old)
        self.note()
        return self.seen[-1]


@pytest.fixture
def asker(spec: OpencodeSpec) -> Iterator[Callable[..., Asker]]:
    made: list[Asker] = []

    def make(**limits: Any) -> Asker:
        made.append(Asker(limits.pop("spec", spec), **limits))
        return made[-1]

    yield make
    for one in made:
        one.server_pool.close()
    assert instance_dirs() == []


def instance_dirs() -> list[Path]:
    return sorted(instance_dirs_root().iterdir()) if instance_dirs_root().is_dir() else []


def is_gone(server: OpencodeServer) -> bool:
    return not psutil.pid_exists(server.process.pid) and not server.instance_dir.root.exists()


@pytest.mark.nightly
def test_rows_in_flight_end_while_servers_follow_each_other(
    asker: Callable[..., Asker], provider: ScriptedProvider
) -> None:
    provider.on("slow", Reply(delay_s=3.0))
    prompts = [f"{'slow' if number % 20 == 5 else 'row'} {number}" for number in range(160)]
    asking = asker(rows=30)

    async def run() -> list[str]:
        answers = await asking.rows(prompts)
        await asking.until(lambda: all(is_gone(server) for server in asking.seen[:-1]))
        return answers

    assert asking.server_pool.call(run) == prompts
    assert Counter(provider.prompts()) == Counter(prompts)
    assert len(asking.seen) >= 2
    # What a server knows of sessions does not grow with its rows.
    for server in asking.seen:
        fold = server.fold
        assert (fold.first_sign, fold.last_sign, fold._roots, fold._sessions) == ({}, {}, {}, {})
        assert (server.active_requests, server.unrecorded, server._replies) == (0, set(), set())


@pytest.mark.nightly
def test_a_server_above_its_memory_is_followed(asker: Callable[..., Asker]) -> None:
    asking = asker(memory_bytes=1_000_000, min_rows=10)

    async def run() -> tuple[int, int]:
        await asking.rows([f"row {number}" for number in range(9)])
        before = len(asking.seen)
        await asking.row("row 9")
        await asking.followed(asking.seen[0])
        await asking.until(lambda: is_gone(asking.seen[0]))
        # The fresh one is above the cap too, but has not served yet.
        await asking.rows([f"row {number}" for number in range(10, 15)])
        return before, len(asking.seen)

    assert asking.server_pool.call(run) == (1, 2)


@pytest.mark.nightly
def test_a_repair_goes_to_the_server_that_has_the_session(
    asker: Callable[..., Asker], provider: ScriptedProvider
) -> None:
    provider.on(lambda call: "give n" in json.dumps(call.body), Reply(text="no"), Reply(text='{"n": 3}'))
    asking = asker(rows=2)

    async def run() -> tuple[Any, list[str]]:
        servers = asking.server_pool.servers(asking.spec)
        await asking.row("first")
        old = asking.seen[0]

        class GateHold(ServerBackend):
            """Another server takes over before a second prompt is sent."""

            async def run(self, request: Request, on_session: OnSession) -> SessionResult:
                if request.session_id is not None:
                    await asking.followed(old)
                    await asking.row("on the new one")
                    assert servers.server_with(request.session_id) is old
                return await super().run(request, on_session)

        backend = GateHold(servers, asking.spec)
        sessions: list[str] = []
        request = Request(prompt="give n", model_ref="fake/echo")
        wanted = answer_format(SCHEMA, None, MAX_REPAIRS)
        answer = await ask(backend, request, node_id="n", on_session=sessions.append, answer_format=wanted)
        assert old.is_running
        assert backend.data_dir(sessions[0]) == old.instance_dir.data
        assert backend.data_dir(None) == asking.seen[-1].instance_dir.data != old.instance_dir.data
        backend.release_session(sessions[0])
        await asking.until(lambda: is_gone(old))
        return answer.structured, sessions

    value, sessions = asking.server_pool.call(run)
    assert value == {"n": 3}
    assert len(set(sessions)) == 1
    assert len(provider.calls) == 4


@pytest.mark.nightly
def test_a_successor_that_does_not_start_is_tried_again_later(
    asker: Callable[..., Asker], spec: OpencodeSpec, provider: ScriptedProvider, tmp_path: Path
) -> None:
    flag, wrapper = tmp_path / "unwilling", tmp_path / "opencode"
    wrapper.write_text(UNWILLING.format(flag=flag, binary=spec.binary))
    wrapper.chmod(0o700)
    asking = asker(
        spec=OpencodeSpec(binary=wrapper, config=spec.config, model_ref="fake/echo"),
        rows=5,
        retry_delay_s=3600.0,
    )
    prompts = [f"row {number}" for number in range(40)]

    async def run() -> None:
        servers = asking.server_pool.servers(asking.spec)
        await asking.row("warm")
        flag.touch()
        assert await asking.rows(prompts) == prompts
        await asking.until(lambda: servers.rotations[0]._successor is None)
        assert await asking.rows(["later"]) == ["later"]
        assert len(asking.seen) == 1
        # Not tried again, however many rows there were: there was one more home, and it is gone.
        assert [home.name for home in instance_dirs()] == [asking.seen[0].instance_dir.root.name]
        assert servers.rotations[0]._successor is None
        flag.unlink()
        servers.rotations[0]._not_before = 0.0
        await asking.row("at last")
        await asking.followed(asking.seen[0])

    asking.server_pool.call(run)
    assert Counter(provider.prompts()) == Counter([*prompts, "warm", "later", "at last"])


@pytest.mark.slow
def test_a_killed_server_is_replaced_at_once(asker: Callable[..., Asker], provider: ScriptedProvider) -> None:
    asking = asker()

    async def run() -> list[OpencodeServer]:
        await asking.row("first")
        os.kill(asking.seen[0].process.pid, signal.SIGKILL)
        await asking.until(lambda: not asking.seen[0].is_running)
        await asking.row("second")
        await asking.until(lambda: is_gone(asking.seen[0]))
        return asking.seen

    assert len(asking.server_pool.call(run)) == 2
    assert provider.prompts() == ["first", "second"]


@pytest.mark.nightly
def test_rows_go_to_the_least_busy_server_and_only_those_of_a_killed_one_break(
    asker: Callable[..., Asker], provider: ScriptedProvider
) -> None:
    provider.on("hangs", Reply(hang=True))
    asking = asker()

    async def send(backend: Backend, prompt: str, sessions: list[str]) -> SessionResult:
        return await backend.run(Request(prompt=prompt, model_ref="fake/echo"), sessions.append)

    async def run() -> None:
        servers = asking.server_pool.servers(asking.spec)
        async with asking.server_pool.use(asking.spec, "server", frozenset(), servers=2) as backend:
            await asking.until(lambda: all(place.is_running for place in servers.rotations))
            first, second = [place.current for place in servers.rotations]
            assert first is not None
            assert second is not None
            sessions: list[str] = []
            hanging = [asyncio.create_task(send(backend, f"hangs {n}", sessions)) for n in range(4)]
            await asking.until(lambda: len(sessions) == 4)
            assert (first.active_requests, second.active_requests) == (2, 2)
            on_first = [servers.server_with(session_id) is first for session_id in sessions]
            assert sum(on_first) == 2
            os.kill(first.process.pid, signal.SIGKILL)
            await asking.until(lambda: sum(task.done() for task in hanging) == 2)
            assert all(task.result().stderr for task in hanging if task.done())
            await asking.until(lambda: not first.is_running)
            # The other server serves new rows, while a successor of the killed one starts.
            assert (await send(backend, "new", sessions)).exit_code == 0
            assert servers.server_with(sessions[-1]) is second
            await asking.until(lambda: servers.rotations[0].is_running)
            await asking.until(lambda: not psutil.pid_exists(first.process.pid))
            assert sum(task.done() for task in hanging) == 2
            assert servers.rotations[0].current is not first
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)
            for session_id in sessions:
                backend.release_session(session_id)

    asking.server_pool.call(run)


@pytest.mark.nightly
def test_servers_are_ended_while_a_successor_starts(asker: Callable[..., Asker]) -> None:
    asking = asker(rows=1)

    async def run() -> None:
        # On a busy machine a successor can have started before the row that wanted it ends.
        for number in range(ROWS_UNTIL_ONE_STARTS):
            await asking.row(f"row {number}")
            if asking.server_pool.servers(asking.spec).rotations[0]._successor is not None:
                break
        else:
            pytest.fail("no row ended while a successor was starting")
        await asking.until(lambda: len(instance_dirs()) >= 2)
        await asking.server_pool.end_server(asking.spec)
        assert instance_dirs() == []

    asking.server_pool.call(run)


@pytest.mark.nightly
def test_a_worker_killed_between_two_servers_leaves_the_sessions_of_both(
    spec: OpencodeSpec, provider: ScriptedProvider
) -> None:
    provider.on("hangs", Reply(hang=True))
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(spec.binary), json.dumps(spec.config)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    try:
        told = dict[str, tuple[str, Path]]()
        for _ in range(4):
            prompt, session_id, data = json.loads(owner.stdout.readline())
            told[prompt] = (session_id, Path(data))
        wait_for(lambda: "hangs on the new one" in provider.prompts())
    finally:
        owner.kill()
        owner.communicate()
    folders = {data for _, data in told.values()}
    assert len(folders) == 2
    wait_for(lambda: all(is_left(instance_dir_of(data)) for data in folders))
    calls = len(provider.calls)
    for prompt, (session_id, data) in told.items():
        [sessions] = asyncio.run(read_orphaned_sessions(spec, data, [session_id], frozenset())).values()
        assert (finished_result(sessions) is not None) == prompt.startswith("done")
    assert len(provider.calls) == calls


def is_left(home: InstanceDir) -> bool:
    return not home.run.exists() and any(home.marks.iterdir()) and is_orphaned(home)


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert holds()
