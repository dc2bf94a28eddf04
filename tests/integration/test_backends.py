"""What only a backend that runs opencode has: agents, sub-agents, permissions, connections, folders."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from rig import BASH, CLOCKS, RARELY_CLI, Rig

from opencode_tasks.errors import (
    AuthenticationError,
    InputError,
    OpenCodeTimeoutError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)
from opencode_tasks.opencode.backend import BackendName, Clocks
from opencode_tasks.opencode.catalog import Catalog, read_catalog
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.testing import Reply

RATE: dict[str, Any] = {"error": {"message": "Rate limit reached", "type": "rate"}}


def refusal(message: str, **more: str) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


@pytest.mark.slow
@pytest.mark.parametrize("backend", RARELY_CLI)
def test_nothing_listens(rig: Rig, backend: BackendName) -> None:
    asked = rig.ask(model="refuses/echo", backend=backend)
    error = asked.failed(ServerError)
    assert "onnect" in error.raw_message
    assert asked.attempt.usage_known


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_the_connection_is_reset(rig: Rig, backend: BackendName) -> None:
    before = rig.dead_ends.connections
    asked = rig.ask(model="resets/echo", backend=backend)
    asked.failed(ServerError)
    assert rig.dead_ends.connections - before == 1
    assert not asked.attempt.usage_known


def test_a_limit_of_two_hours_is_known_at_once(rig: Rig) -> None:
    plain = rig.ask(Reply(text="plain"))
    asked = rig.ask(Reply(status=429, headers={"Retry-After": "7200"}, body=RATE))
    error = asked.failed(RateLimitError)
    assert (error.reset_time - datetime.now(UTC)).total_seconds() == pytest.approx(7200, abs=5)
    assert asked.seconds < 2 + 2 * plain.seconds
    assert len(asked.calls) == 1


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_an_agent_of_the_config_keeps_its_own_prompt(rig: Rig, backend: BackendName) -> None:
    asked = rig.ask(agent="plain", system=None, backend=backend)
    assert len(asked.calls) == 1
    assert "You are the plain agent of the config." in asked.calls[0].system
    assert "opencode" not in asked.calls[0].headers.get("x-opencode-tasks-session", "")


def test_the_default_agent_offers_no_tool(rig: Rig) -> None:
    asked = rig.ask(Reply(text="fine"))
    assert not asked.calls[0].body.get("tools")


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_permission_that_is_asked_for_is_refused_at_once(rig: Rig, backend: BackendName) -> None:
    asked = rig.ask(
        Reply(tool_calls=[BASH]), Reply(text="", delay_s=0), agent="asker", system=None, backend=backend
    )
    error = asked.failed(PermissionDeniedError)
    assert set(error.tools) == {"bash"}
    assert asked.seconds < CLOCKS.first_event_s


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_words_before_a_refused_tool_are_no_answer(rig: Rig, backend: BackendName) -> None:
    words = "Let me look at the LICENSE file."
    asked = rig.ask(Reply(text=words, tool_calls=[BASH]), agent="asker", system=None, backend=backend)
    error = asked.failed(PermissionDeniedError)
    assert set(error.tools) == {"bash"}
    assert len(asked.calls) == 1


SLEEP = ("bash", {"command": "sleep 3; echo done", "description": "take some time"})


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_provider_owes_no_sign_while_a_tool_runs(rig: Rig, backend: BackendName) -> None:
    clocks = Clocks(first_event_s=60, stall_s=1, total_s=90)
    replies = Reply(tool_calls=[SLEEP]), Reply(text="built")
    asked = rig.ask(*replies, agent="worker", system=None, clocks=clocks, backend=backend)
    assert asked.text == "built"
    assert len(asked.calls) == 2


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_tool_that_takes_too_long_ends_the_attempt(rig: Rig, backend: BackendName) -> None:
    clocks = Clocks(first_event_s=60, stall_s=60, tool_s=1, total_s=90)
    asked = rig.ask(Reply(tool_calls=[SLEEP]), agent="worker", system=None, clocks=clocks, backend=backend)
    error = asked.failed(OpenCodeTimeoutError)
    assert (error.clock, error.seconds) == ("tool", 1)
    assert "--tool-timeout 1" in error.raw_message
    assert len(asked.calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_provider_that_stalls_in_a_sub_agent_is_found(rig: Rig, backend: BackendName) -> None:
    task = {"description": "one thing", "prompt": "do the slow thing", "subagent_type": "hand"}
    rig.provider.on("do the slow thing", Reply(text="abcdefgh", chunks=4, chunk_delay_s=30))
    clocks = Clocks(first_event_s=60, stall_s=4, tool_s=60, total_s=90)
    calls = Reply(tool_calls=[("task", task)])
    asked = rig.ask(calls, agent="boss", system=None, clocks=clocks, backend=backend)
    assert asked.failed(OpenCodeTimeoutError).clock == "stall"


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_child_session_is_counted(rig: Rig, backend: BackendName) -> None:
    task = {"description": "one thing", "prompt": "do the one thing", "subagent_type": "hand"}
    rig.provider.on("do the one thing", Reply(text="thing done", input_tokens=11, output_tokens=3))
    asked = rig.ask(
        Reply(tool_calls=[("task", task)], input_tokens=50, output_tokens=5),
        Reply(text="all done", input_tokens=60, output_tokens=6),
        agent="boss",
        system=None,
        backend=backend,
    )
    assert asked.text == "all done"
    root, child = asked.attempt.sessions
    assert (root.parent_id, child.parent_id) == (None, root.session_id)
    assert [step.usage.input_tokens for step in root.steps] == [50, 60]
    assert [step.usage.input_tokens for step in child.steps] == [11]
    assert len(asked.calls) == 3


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_session_with_a_finished_step_waits_inside_opencode(rig: Rig, backend: BackendName) -> None:
    asked = rig.ask(
        Reply(tool_calls=[BASH]),
        Reply(status=503, headers={"Retry-After": "1"}, body=refusal("over")),
        Reply(text="recovered"),
        agent="worker",
        system=None,
        backend=backend,
    )
    assert asked.text == "recovered"
    assert len(asked.calls) == 3
    assert len(asked.attempt.steps) == 2
    assert [retry.number for retry in asked.attempt.inner_retries] == [1]


@pytest.mark.parametrize(
    ("cut", "is_known"),
    [
        (Reply(text="half an answer", chunks=3, cut_after=2), False),
        (Reply(text="half", stream_error={"type": "overloaded_error", "message": "Overloaded"}), False),
        (Reply(text="", stream_error={"type": "overloaded_error", "message": "Overloaded"}), True),
    ],
    ids=["cut", "error after text", "error at once"],
)
@pytest.mark.parametrize("backend", RARELY_CLI)
def test_the_cost_of_an_answer_that_opencode_asks_again_for_is_unknown(
    rig: Rig, cut: Reply, is_known: bool, backend: BackendName
) -> None:
    replies = (Reply(tool_calls=[BASH]), cut, Reply(text="recovered"))
    asked = rig.ask(*replies, agent="worker", system=None, backend=backend)
    assert asked.text == "recovered"
    assert len(asked.calls) == 3
    assert len(asked.attempt.steps) == 2
    assert asked.attempt.usage_known is is_known


def test_a_long_wait_after_a_finished_step_is_not_left_to_opencode(rig: Rig) -> None:
    asked = rig.ask(
        Reply(tool_calls=[BASH], input_tokens=100, output_tokens=20),
        Reply(status=429, headers={"Retry-After": "7200"}, body=RATE),
        agent="worker",
        system=None,
    )
    error = asked.failed(RateLimitError)
    assert (error.reset_time - datetime.now(UTC)).total_seconds() == pytest.approx(7200, abs=5)
    assert len(asked.calls) == 2
    assert [step.usage.input_tokens for step in asked.attempt.steps] == [100]


@pytest.mark.nightly
def test_without_the_plugin_a_long_wait_is_ended_and_tells_its_end(unplugged: Rig) -> None:
    asked = unplugged.ask(Reply(status=429, headers={"Retry-After": "7200"}, body=RATE))
    error = asked.failed(RateLimitError)
    assert (error.reset_time - datetime.now(UTC)).total_seconds() == pytest.approx(7200, abs=10)
    assert "Rate limit reached" in error.raw_message
    assert asked.seconds < CLOCKS.first_event_s
    assert len(asked.attempt.inner_retries) == 1
    assert len(asked.calls) == 1


@pytest.mark.nightly
def test_without_the_plugin_a_long_wait_of_a_server_is_its_error(unplugged: Rig) -> None:
    asked = unplugged.ask(Reply(status=503, headers={"Retry-After": "7200"}, body=refusal("maintenance")))
    error = asked.failed(ServerError)
    assert error.retry_after == pytest.approx(7200, abs=10)


def test_without_the_plugin_the_same_errors_come_with_opencodes_own_retries(unplugged: Rig) -> None:
    asked = unplugged.ask(Reply(status=401, body=refusal("bad key")))
    assert asked.failed(AuthenticationError).raw_message == "HTTP 401: bad key"
    asked = unplugged.ask(Reply(status=503, headers={"retry-after-ms": "100"}), Reply(text="after all"))
    assert asked.text == "after all"
    assert len(asked.attempt.inner_retries) == 1


@pytest.mark.parametrize(
    ("model", "agent", "words"),
    [
        ("fake/eho", "opencode-tasks", "has no model 'eho'; there is: fake/echo"),
        ("nobody/echo", "opencode-tasks", "has no provider 'nobody'"),
        ("echo", "opencode-tasks", "is not of the form provider/model"),
        ("fake/echo", "nobody", "is not known to opencode"),
        ("fake/echo", "hand", "is a sub-agent"),
    ],
)
def test_what_opencode_does_not_know_is_refused_before_any_call(
    rig: Rig, model: str, agent: str, words: str
) -> None:
    async def read() -> Catalog:
        server = await rig.server()
        return await read_catalog(
            server, model_ref=model, agent=agent, variant=None, version="x", binary=rig.spec.binary
        )

    before = len(rig.provider.calls)
    with pytest.raises(InputError) as caught:
        server_pool.call(read)
    assert words in str(caught.value)
    assert len(rig.provider.calls) == before


def test_a_gap_in_the_event_stream_is_closed_by_reading_back(rig: Rig) -> None:
    async def stop_reading() -> None:
        server = await rig.server()
        assert server._reader is not None
        server._reader.cancel()

    async def read_again() -> None:
        server = await rig.server()
        server._reader = asyncio.create_task(server._read_events())

    server_pool.call(stop_reading)
    try:
        asked = rig.ask(Reply(text="read back", input_tokens=33))
    finally:
        server_pool.call(read_again)
    assert asked.text == "read back"
    assert [step.usage.input_tokens for step in asked.attempt.steps] == [33]


def test_no_key_is_on_a_command_line_or_goes_without_a_password(rig: Rig) -> None:
    rig.ask(Reply(text="alive"))

    async def address() -> tuple[str, int]:
        server = await rig.server()
        return server.client.url, server.process.pid

    url, pid = server_pool.call(address)
    family = [psutil.Process(), *psutil.Process().children(recursive=True), psutil.Process(pid)]
    lines = "\n".join(" ".join(process.cmdline()) for process in family)
    assert "serve" in lines
    assert "sk-test" not in lines
    password = psutil.Process(pid).environ()["OPENCODE_SERVER_PASSWORD"]
    assert password not in lines
    for route in ("/session", "/config", "/global/event"):
        assert httpx.get(f"{url.rstrip('/')}{route}", trust_env=False, timeout=10).status_code == 401


def test_folders_are_private(rig: Rig) -> None:
    async def root() -> Path:
        return (await rig.server()).instance_dir.root

    path = server_pool.call(root)
    assert path.stat().st_mode & 0o777 == 0o700
    secrets = list((path / "run").glob("*.json*"))
    assert secrets
    assert all(p.stat().st_mode & 0o077 == 0 for p in secrets)
