"""Both backends that run opencode: every failure has its class and its fields and is charged once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import httpx
import psutil
import pytest
from rig import BASH, BOTH, CLOCKS, RARELY_CLI, Asked, Rig

from opencode_tasks.errors import (
    AuthenticationError,
    BillingError,
    ContentFilteredError,
    InputError,
    InvalidRequestError,
    MaxOutputTokensError,
    OpenCodeError,
    OpenCodeTimeoutError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    StructuredOutputError,
    UnknownOpenCodeError,
)
from opencode_tasks.opencode.backend import BackendName, Clocks
from opencode_tasks.opencode.catalog import Catalog, read_catalog
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.testing import Reply


def refusal(message: str, **more: str) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A reply of the provider, and the exception that is expected for it."""

    reply: Reply | Callable[[], Reply]
    kind: type[OpenCodeError]
    words: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    reset_s: float | None = None
    calls: int = 1
    usage_known: bool = True


def in_future(seconds: float) -> Callable[[], Reply]:
    """A 429 with an HTTP date; the date is made when the test runs."""
    return lambda: Reply(status=429, headers={"Retry-After": formatdate(time() + seconds, usegmt=True)})


RATE = refusal("Rate limit reached", type="rate")
TOO_LONG = refusal(
    "This model's maximum context length is 100", code="context_length_exceeded", type="invalid_request_error"
)
QUOTA = refusal("You exceeded your current quota", code="insufficient_quota", type="insufficient_quota")

FAULTS: dict[str, Fault] = {
    "401": Fault(
        reply=Reply(status=401, body=refusal("bad key")), kind=AuthenticationError, words="HTTP 401: bad key"
    ),
    "403": Fault(
        reply=Reply(status=403, body=refusal("no entry")), kind=AuthenticationError, words="no entry"
    ),
    "402": Fault(
        reply=Reply(status=402, body=refusal("insufficient credit")),
        kind=BillingError,
        words="insufficient credit",
    ),
    "400": Fault(
        reply=Reply(status=400, body=refusal("bad thing")), kind=InvalidRequestError, words="bad thing"
    ),
    "404": Fault(
        reply=Reply(status=404, body=refusal("no such model")),
        kind=InvalidRequestError,
        words="no such model",
    ),
    "429-integer": Fault(
        reply=Reply(status=429, headers={"Retry-After": "3"}, body=RATE),
        kind=RateLimitError,
        words="Rate limit reached",
        reset_s=3,
    ),
    "429-fraction": Fault(
        reply=Reply(status=429, headers={"retry-after": "12.5"}, body=RATE), kind=RateLimitError, reset_s=12.5
    ),
    "429-date": Fault(reply=in_future(90), kind=RateLimitError, reset_s=90),
    "429-ms": Fault(
        reply=Reply(status=429, headers={"retry-after-ms": "20000", "retry-after": "1"}, body=RATE),
        kind=RateLimitError,
        reset_s=20,
    ),
    "429-none": Fault(reply=Reply(status=429, body=RATE), kind=RateLimitError, reset_s=60),
    "429-quota": Fault(reply=Reply(status=429, body=QUOTA), kind=BillingError, words="current quota"),
    "500": Fault(
        reply=Reply(status=500, body=refusal("boom")),
        kind=ServerError,
        words="HTTP 500: boom",
        fields={"retry_after": None},
    ),
    "502-html": Fault(
        reply=Reply(status=502, headers={"content-type": "text/html"}, body="<html>bad gateway</html>"),
        kind=ServerError,
        words="bad gateway",
        fields={"retry_after": None},
    ),
    "503": Fault(
        reply=Reply(status=503, headers={"Retry-After": "2"}, body=refusal("overloaded")),
        kind=ServerError,
        fields={"retry_after": 2.0},
    ),
    "529": Fault(
        reply=Reply(status=529, body=refusal("overloaded")),
        kind=ServerError,
        words="overloaded",
        fields={"retry_after": None},
    ),
    "context": Fault(
        reply=Reply(status=400, body=TOO_LONG), kind=MaxOutputTokensError, words="maximum context length"
    ),
    "length": Fault(
        reply=Reply(text="partial", finish_reason="length"),
        kind=MaxOutputTokensError,
        fields={"partial_text": "partial"},
    ),
    "filter": Fault(
        reply=Reply(text="abc", finish_reason="content_filter"),
        kind=ContentFilteredError,
        fields={"partial_text": "abc"},
    ),
    "empty": Fault(reply=Reply(text=""), kind=UnknownOpenCodeError, words="empty response"),
    "closed": Fault(reply=Reply(reset=True), kind=ServerError, usage_known=False),
    "cut": Fault(reply=Reply(text="abcdef", chunks=3, cut_after=1), kind=ServerError, usage_known=False),
}
# One of each kind.
CLI_KINDS = ("401", "402", "400", "429-integer", "503", "length", "filter", "empty", "cut")


def scripted(fault: Fault) -> Reply:
    return fault.reply if isinstance(fault.reply, Reply) else fault.reply()


def check(fault: Fault, asked: Asked) -> None:
    """The exception is the table's, and the provider was asked no more often than it says."""
    error = asked.failed(fault.kind)
    assert fault.words in error.raw_message
    assert {name: getattr(error, name) for name in fault.fields} == fault.fields
    if isinstance(error, RateLimitError):
        assert fault.reset_s is not None
        assert error.reset_time.tzinfo is UTC
        assert error.reset_time.timestamp() - asked.at == pytest.approx(fault.reset_s, abs=5 + asked.seconds)
    assert len(asked.calls) == fault.calls
    assert asked.attempt.session_id
    # Opencode begins to retry some broken streams; the plugin answers that in the provider's place.
    assert not (asked.attempt.inner_retries and fault.usage_known)
    assert asked.attempt.usage_known is fault.usage_known
    assert asked.attempt.notes == ()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_its_exception_through_a_server(rig: Rig, name: str) -> None:
    check(FAULTS[name], rig.ask(scripted(FAULTS[name])))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in CLI_KINDS else pytest.mark.chaos) for n in FAULTS],
)
def test_a_fault_is_its_exception_through_the_command_line(rig: Rig, name: str) -> None:
    check(FAULTS[name], rig.ask(scripted(FAULTS[name]), backend="cli"))


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


@pytest.mark.parametrize("backend", RARELY_CLI)
@pytest.mark.parametrize(
    ("reply", "clocks", "clock", "seconds"),
    [
        (Reply(hang=True), Clocks(first_event_s=2, stall_s=60, total_s=60), "first_event", 2),
        (
            Reply(text="abcdefgh", chunks=4, chunk_delay_s=20),
            Clocks(first_event_s=60, stall_s=1.5, total_s=60),
            "stall",
            1.5,
        ),
        (
            Reply(text="a" * 1200, chunks=1200, chunk_delay_s=0.1),
            Clocks(first_event_s=60, stall_s=60, total_s=2),
            "total",
            2,
        ),
    ],
    ids=["first-event", "stall", "total"],
)
def test_a_clock_runs_out(
    rig: Rig, backend: BackendName, reply: Reply, clocks: Clocks, clock: str, seconds: float
) -> None:
    if backend == "cli":
        # A process needs some seconds to start.
        longer = {
            "first_event": {"first_event_s": 30.0},
            "stall": {"stall_s": 3.0},
            "total": {"total_s": 30.0},
        }
        clocks = Clocks(**{"first_event_s": 90.0, "stall_s": 90.0, "total_s": 90.0, **longer[clock]})
        seconds = getattr(clocks, f"{clock}_s")
    asked = rig.ask(reply, clocks=clocks, backend=backend)
    error = asked.failed(OpenCodeTimeoutError)
    assert error.clock == clock
    assert error.seconds == seconds
    assert asked.seconds < seconds + 40
    assert not asked.attempt.usage_known
    assert len(asked.calls) == 1


def test_a_limit_of_two_hours_is_known_at_once(rig: Rig) -> None:
    plain = rig.ask(Reply(text="plain"))
    asked = rig.ask(Reply(status=429, headers={"Retry-After": "7200"}, body=RATE))
    error = asked.failed(RateLimitError)
    assert (error.reset_time - datetime.now(UTC)).total_seconds() == pytest.approx(7200, abs=5)
    assert asked.seconds < 2 + 2 * plain.seconds
    assert len(asked.calls) == 1


PROMPTS = {
    "quotes": "say \"this\" and 'that' and `those` $HOME \\n",
    "newlines": "\n\n two lines \n and a third \n\n",
    "crlf": "one\r\ntwo\r\n\tthree\r",
    "option": "--model nothing --help",
    "emoji": "👩‍👩‍👧 naïve ﬁ \u2028 e\u0301",
    "punctuation": "?!",
    "at": "@file.txt /command !bash",
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_arrives_byte_for_byte_through_a_server(rig: Rig, name: str) -> None:
    asked = rig.ask(prompt=PROMPTS[name])
    assert [call.prompt for call in asked.calls] == [PROMPTS[name]]
    assert asked.text == PROMPTS[name]


@pytest.mark.parametrize(
    "prompt",
    [
        # All the hard ones at once, so that one process shows them.
        "--help \n" + "\n".join(PROMPTS.values()) + "\r\n\n",
        pytest.param(PROMPTS["newlines"], marks=pytest.mark.chaos),
        pytest.param(PROMPTS["punctuation"], marks=pytest.mark.chaos),
    ],
    ids=["all", "newlines", "punctuation"],
)
def test_a_prompt_arrives_byte_for_byte_through_the_command_line(rig: Rig, prompt: str) -> None:
    asked = rig.ask(prompt=prompt, backend="cli")
    assert [call.prompt for call in asked.calls] == [prompt]
    assert asked.text == prompt
    assert asked.calls[0].system == "Be brief."
    assert asked.attempt.notes == ()


@pytest.mark.parametrize("backend", BOTH)
def test_a_prompt_of_a_megabyte_arrives(rig: Rig, backend: BackendName) -> None:
    prompt = "a'b\"c \n" * 150_000
    asked = rig.ask(prompt=prompt, backend=backend)
    assert len(asked.calls) == 1
    assert asked.calls[0].prompt == prompt
    assert asked.text == prompt


@pytest.mark.parametrize("backend", BOTH)
def test_the_system_text_arrives_as_given(rig: Rig, backend: BackendName) -> None:
    for system in ("You label.\n\n  Answer \"yes\" or 'no'.\n", "Du bist knapp. 👍"):
        asked = rig.ask(system=system, backend=backend)
        assert [call.system for call in asked.calls] == [system]


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_an_agent_of_the_config_keeps_its_own_prompt(rig: Rig, backend: BackendName) -> None:
    asked = rig.ask(agent="plain", system=None, backend=backend)
    assert len(asked.calls) == 1
    assert "You are the plain agent of the config." in asked.calls[0].system
    assert "opencode" not in asked.calls[0].headers.get("x-opencode-tasks-session", "")


def test_the_default_agent_offers_no_tool(rig: Rig) -> None:
    asked = rig.ask(Reply(text="fine"))
    assert not asked.calls[0].body.get("tools")


@pytest.mark.parametrize("backend", BOTH)
def test_a_permission_that_is_asked_for_is_refused_at_once(rig: Rig, backend: BackendName) -> None:
    asked = rig.ask(
        Reply(tool_calls=[BASH]), Reply(text="", delay_s=0), agent="asker", system=None, backend=backend
    )
    error = asked.failed(PermissionDeniedError)
    assert set(error.tools) == {"bash"}
    assert asked.seconds < CLOCKS.first_event_s


@pytest.mark.parametrize("backend", BOTH)
def test_both_steps_of_a_tool_session_are_counted(rig: Rig, backend: BackendName) -> None:
    asked = rig.ask(
        Reply(
            tool_calls=[BASH], input_tokens=100, cache_read_tokens=30, output_tokens=20, reasoning_tokens=5
        ),
        Reply(text="done", input_tokens=200, output_tokens=7),
        agent="worker",
        system=None,
        backend=backend,
    )
    assert asked.text == "done"
    assert asked.good.turns == 2
    first, second = (step.usage for step in asked.attempt.steps)
    assert (first.input_tokens, first.cache_read_tokens, first.output_tokens, first.reasoning_tokens) == (
        70,
        30,
        15,
        5,
    )
    assert (second.input_tokens, second.output_tokens) == (200, 7)
    # Per million tokens: 1 USD in, 0.1 cached, 2 out.
    assert first.cost_pico == 70_000_000 + 3_000_000 + 40_000_000
    assert second.cost_pico == 200_000_000 + 14_000_000
    assert "stepped" in json.dumps(asked.calls[1].body["messages"])


@pytest.mark.parametrize("backend", BOTH)
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


SCHEMA = {"type": "object", "properties": {"label": {"enum": ["good", "bad"]}}, "required": ["label"]}


def test_an_answer_that_fits_its_schema(rig: Rig) -> None:
    asked = rig.ask(Reply(text='{"label": "good"}'), schema=SCHEMA)
    assert asked.good.structured == {"label": "good"}
    assert len(asked.calls) == 1


@pytest.mark.parametrize("backend", BOTH)
def test_one_repair_turn_says_what_was_wrong(rig: Rig, backend: BackendName) -> None:
    first, second = (
        Reply(text='{"label": "so so"}', input_tokens=5),
        Reply(text='{"label": "bad"}', input_tokens=9),
    )
    asked = rig.ask(first, second, schema=SCHEMA, backend=backend)
    assert asked.good.structured == {"label": "bad"}
    assert [step.usage.input_tokens for step in asked.attempt.steps] == [5, 9]
    assert "'so so' is not one of" in asked.calls[1].prompt
    assert asked.calls[0].system == asked.calls[1].system == "Be brief."


def test_no_second_repair(rig: Rig) -> None:
    asked = rig.ask(Reply(text="none"), schema=SCHEMA)
    error = asked.failed(StructuredOutputError)
    assert error.text == "none"
    assert len(asked.calls) == len(asked.attempt.steps) == 2


def test_without_the_plugin_a_long_wait_is_ended_and_tells_its_end(unplugged: Rig) -> None:
    asked = unplugged.ask(Reply(status=429, headers={"Retry-After": "7200"}, body=RATE))
    error = asked.failed(RateLimitError)
    assert (error.reset_time - datetime.now(UTC)).total_seconds() == pytest.approx(7200, abs=10)
    assert "Rate limit reached" in error.raw_message
    assert asked.seconds < CLOCKS.first_event_s
    assert len(asked.attempt.inner_retries) == 1
    assert len(asked.calls) == 1


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
