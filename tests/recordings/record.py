"""Create the recordings in this folder with the installed opencode.

    python tests/recordings/record.py [--to FOLDER]

Each case is one behavior of a provider. It is recorded with a running server (``server/``: answer, messages,
messages of child sessions, events), and with ``opencode run`` and ``opencode export`` (``run/``). Cases with
``without-plugin`` record opencode without the plugin; a wait is aborted after its first event. Ids, times,
paths and ports are replaced, so that the recordings of two runs differ little.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opencode_tasks.opencode.backend import Clocks, OpencodeSpec, Request
from opencode_tasks.opencode.binary import PINNED_VERSION
from opencode_tasks.opencode.cli_backend import run_arguments
from opencode_tasks.opencode.install import install_opencode
from opencode_tasks.opencode.instance_dir import environment, make_instance_dir
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.outcomes.cli_output import parse_events, parse_session_id
from opencode_tasks.system import GuardedProcess, run_command
from opencode_tasks.testing import Reply, ScriptedProvider

LIMIT_S = 60.0
EVENTS_LIMIT_S = 10.0
EVENTS_START_S = 0.5
TIME_MS = 1_700_000_000_000
NEXT_TIME_MS = TIME_MS + 60_000
TIME_HTTP = "Tue, 14 Nov 2023 22:13:20 GMT"
# Events that the parsers do not read, or that differ between runs.
IGNORED_EVENTS = frozenset(
    {"sync", "server.connected", "server.heartbeat", "session.diff", "session.updated"}
)
BASH = ("bash", {"command": "echo stepped", "description": "say a word"})
TASK = ("task", {"description": "one thing", "prompt": "do the one thing", "subagent_type": "hand"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case: the replies of the provider and how they are recorded.

    ``plugin`` is whether the plugin is loaded. ``abort`` aborts the session when opencode waits for a
    retry or for an answer. ``run`` is whether ``opencode run`` is recorded too.
    """

    name: str
    replies: Sequence[Reply]
    agent: str = "opencode-tasks"
    plugin: bool = True
    abort: bool = False
    run: bool = True

    @property
    def folder(self) -> str:
        return self.name if self.plugin else f"{self.name}-without-plugin"

    @property
    def prompt(self) -> str:
        return f"Do {self.folder}."


def error(message: str, **more: str) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


def error_reply(status: int, body: Mapping[str, Any], **headers: str) -> list[Reply]:
    return [
        Reply(
            status=status, body=body, headers={key.replace("_", "-"): value for key, value in headers.items()}
        )
    ]


RATE = error("Rate limit reached", type="rate_limit")
QUOTA = error("You exceeded your current quota", code="insufficient_quota", type="insufficient_quota")
OVERFLOW = error(
    "This model's maximum context length is 100 tokens",
    code="context_length_exceeded",
    type="invalid_request_error",
)
ERRORS = {
    "400": error_reply(400, error("bad thing", type="invalid_request_error")),
    "401": error_reply(401, error("bad key")),
    "402": error_reply(402, error("insufficient credit")),
    "context-overflow": error_reply(400, OVERFLOW),
}
CASES = [
    Case(name="text", replies=[Reply(text="Fine.", input_tokens=12, output_tokens=3)]),
    Case(
        name="reasoning",
        replies=[
            Reply(
                text="Four.",
                reasoning_text="Two and two.",
                input_tokens=100,
                cache_read_tokens=30,
                output_tokens=20,
                reasoning_tokens=5,
            )
        ],
    ),
    Case(
        name="tool-call",
        agent="worker",
        replies=[
            Reply(tool_calls=[BASH], input_tokens=50, output_tokens=8),
            Reply(text="Done.", input_tokens=70, output_tokens=2),
        ],
    ),
    Case(
        name="child-session",
        agent="boss",
        replies=[
            Reply(tool_calls=[TASK], input_tokens=40, output_tokens=9),
            Reply(text="All done.", input_tokens=60, output_tokens=2),
        ],
    ),
    Case(name="length", replies=[Reply(text="Part of", finish_reason="length")]),
    Case(name="content-filter", replies=[Reply(text="Part of", finish_reason="content_filter")]),
    Case(name="empty", replies=[Reply(text="")]),
    *(Case(name=name, replies=replies) for name, replies in ERRORS.items()),
    Case(name="429", replies=error_reply(429, RATE, retry_after="7200")),
    Case(name="insufficient-quota", replies=error_reply(429, QUOTA)),
    Case(name="500", replies=error_reply(500, error("boom"))),
    Case(name="503", replies=error_reply(503, error("overloaded"), retry_after="2")),
    # The delay lets opencode read the first chunk before the connection is closed.
    Case(name="cut", replies=[Reply(text="abcdef", chunks=3, cut_after=1, chunk_delay_s=0.5)]),
    Case(name="hang", replies=[Reply(hang=True)], abort=True, run=False),
    Case(name="permission", agent="asker", replies=[Reply(tool_calls=[BASH])]),
    *(Case(name=name, replies=replies, plugin=False, run=name == "401") for name, replies in ERRORS.items()),
    Case(name="429", replies=error_reply(429, RATE, retry_after="1"), plugin=False, run=False),
    Case(
        name="429-long",
        replies=error_reply(429, RATE, retry_after="7200"),
        plugin=False,
        run=False,
        abort=True,
    ),
    Case(name="insufficient-quota", replies=error_reply(429, QUOTA), plugin=False, run=False, abort=True),
    Case(name="500", replies=error_reply(500, error("boom")), plugin=False, run=False, abort=True),
    Case(name="503", replies=error_reply(503, error("overloaded"), retry_after="1"), plugin=False, run=False),
]
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
        "description": "One thing.",
        "tools": {"*": False},
    },
}


@dataclass(slots=True)
class Scrubber:
    """Replaces values that differ between runs: ids, times, paths and ports.

    Ids keep their order, because opencode sorts messages and parts by it.
    """

    paths: Sequence[tuple[str, str]]
    ids: dict[str, str] = field(default_factory=dict[str, str])

    ID = re.compile(r"\b(ses|msg|prt|evt|per|que)_[0-9A-Za-z]{10,}")

    def number_ids(self, *values: Any) -> None:
        """Give all ids in the values a number, by kind and in their order."""
        found = {match.group() for value in values for match in self.ID.finditer(json.dumps(value))}
        counts: dict[str, int] = {}
        for name in sorted(found):
            kind = name[:3]
            counts[kind] = counts.get(kind, 0) + 1
            self.ids[name] = f"{kind}_{counts[kind]:04d}"

    def scrub(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {self._text(k): self.scrub(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [self.scrub(item) for item in value]
        if isinstance(value, str):
            return self._string(value, key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 1e12:
            return NEXT_TIME_MS if key == "next" else TIME_MS
        return value

    def _string(self, value: str, key: str) -> str:
        if key == "x-upstream-headers":
            headers = self.scrub(json.loads(base64.b64decode(value)))
            return base64.b64encode(json.dumps(headers).encode()).decode()
        if key == "date":
            return TIME_HTTP
        if key == "slug":
            return "slug"
        if key in ("time", "x-upstream-at") and value.isdigit():
            return str(TIME_MS)
        return self._text(value)

    def _text(self, value: str) -> str:
        for path, name in self.paths:
            # One field of opencode has the path without its first slash.
            value = value.replace(path, name).replace(path.lstrip("/"), name.lstrip("/"))
        value = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", value)
        return self.ID.sub(lambda match: self.ids.get(match.group(), match.group()), value)


def make_spec(binary: Path, provider: ScriptedProvider, *, use_plugin: bool) -> OpencodeSpec:
    return OpencodeSpec(
        binary=binary,
        config={**provider.opencode_config(), "agent": AGENTS},
        model_ref="fake/echo",
        clocks=Clocks(first_event_s=300, stall_s=300, total_s=300),
        use_plugin=use_plugin,
    )


async def record_server(
    spec: OpencodeSpec, cases: Iterable[Case], provider: ScriptedProvider, to: Path
) -> None:
    """Record all cases with one server, one after the other."""
    server = await OpencodeServer.start(spec)
    try:
        for case in cases:
            add_rule(provider, case)
            await record_session(server, case, to / case.folder / "server")
    finally:
        await server.aclose()


async def record_session(server: OpencodeServer, case: Case, to: Path) -> None:
    events: list[dict[str, Any]] = []
    connected = asyncio.Event()
    reader = asyncio.create_task(read_events(server, events, connected))
    await asyncio.wait_for(connected.wait(), LIMIT_S)
    # opencode accepts a reader shortly before it sends events to it.
    await asyncio.sleep(EVENTS_START_S)
    session_id = (await server.post("/session", {"title": "recording"})).json()["id"]
    # The event reader of the library refuses permissions for the sessions that it watches.
    server.fold.watch(session_id, time.monotonic())
    body = {
        "agent": case.agent,
        "model": {"providerID": "fake", "modelID": "echo"},
        "parts": [{"type": "text", "text": case.prompt}],
    }
    request = asyncio.create_task(server.post(f"/session/{session_id}/message", body, timeout_s=LIMIT_S))
    if case.abort:
        await abort_when_it_waits(server, session_id, events)
    answer = await request
    await wait_until_idle(session_id, events)
    reader.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reader
    children = await server.get(f"/session/{session_id}/children")
    family = {session_id, *(child["id"] for child in children)}
    recorded = {
        "answer": {"status": answer.status, "body": answer.json() if answer.text else None},
        "messages": await server.get(f"/session/{session_id}/message"),
        "children": [await server.get(f"/session/{child['id']}/message") for child in children],
        "events": [event for event in events if is_recorded(event, family)],
    }
    write(to, recorded, Scrubber([(str(server.instance_dir.root), "/home/opencode")]))


async def abort_when_it_waits(server: OpencodeServer, session_id: str, events: list[dict[str, Any]]) -> None:
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        if any((e.get("properties", {}).get("status") or {}).get("type") == "retry" for e in events):
            break
        await asyncio.sleep(0.05)
    await server.post(f"/session/{session_id}/abort")


async def wait_until_idle(session_id: str, events: list[dict[str, Any]]) -> None:
    """Wait for the last event, which arrives after the answer."""
    deadline = time.monotonic() + EVENTS_LIMIT_S
    while time.monotonic() < deadline:
        if any(
            e["type"] == "session.idle" and e["properties"]["sessionID"] == session_id for e in list(events)
        ):
            return
        await asyncio.sleep(0.05)
    raise TimeoutError("opencode sent no session.idle event")


async def read_events(server: OpencodeServer, events: list[dict[str, Any]], connected: asyncio.Event) -> None:
    async for text in server.client.events("/global/event"):
        connected.set()
        data = json.loads(text)
        events.append(data.get("payload") or data)


def is_recorded(event: Mapping[str, Any], family: set[str]) -> bool:
    return event.get("type") not in IGNORED_EVENTS and any(session in json.dumps(event) for session in family)


def record_run(spec: OpencodeSpec, case: Case, to: Path) -> None:
    """Record one case with ``opencode run`` and ``opencode export`` in a new instance directory."""
    instance_dir = make_instance_dir()
    try:
        env = environment(instance_dir, spec, password=None, journal_events=False)
        prompt = instance_dir.run / "prompt.txt"
        prompt.write_text(case.prompt)
        request = Request(prompt=case.prompt, model_ref="fake/echo", agent=case.agent)
        stdout = instance_dir.run / "stdout.jsonl"
        process = GuardedProcess.start(
            run_arguments(request, spec, instance_dir),
            env=env,
            cwd=instance_dir.work,
            stdin=prompt,
            stdout=stdout,
            stderr=instance_dir.run / "stderr.txt",
        )
        try:
            code = process.wait(LIMIT_S)
        finally:
            process.stop()
        events = parse_events(stdout.read_text())
        session_id = parse_session_id(stdout.read_text())
        exported = instance_dir.run / "export.json"
        command = [str(spec.binary), "export", session_id or ""]
        run_command(command, env=env, cwd=instance_dir.work, timeout_s=LIMIT_S, stdout=exported)
        recorded = {"exit": {"code": code}, "stdout": events, "export": json.loads(exported.read_text())}
        write(to, recorded, Scrubber([(str(instance_dir.root), "/home/opencode")]))
    finally:
        instance_dir.remove()


def add_rule(provider: ScriptedProvider, case: Case) -> None:
    provider.on(case.prompt, *case.replies)


def write(to: Path, recorded: Mapping[str, Any], scrubber: Scrubber) -> None:
    scrubber.number_ids(*recorded.values())
    to.mkdir(parents=True)
    for name, value in recorded.items():
        text = json.dumps(scrubber.scrub(value), indent=1, ensure_ascii=False)
        (to / f"{name}.json").write_text(f"{text}\n")


async def record_all(to: Path) -> None:
    """Record all cases to ``to``/opencode-VERSION, which is replaced."""
    binary = install_opencode(print)
    folder = to / f"opencode-{PINNED_VERSION}"
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=to))
    try:
        for plugin in (True, False):
            cases = [case for case in CASES if case.plugin is plugin]
            with ScriptedProvider() as provider:
                provider.on("do the one thing", Reply(text="Thing done.", input_tokens=11, output_tokens=3))
                spec = make_spec(binary, provider, use_plugin=plugin)
                await record_server(spec, cases, provider, partial)
            with ScriptedProvider() as provider:
                provider.on("do the one thing", Reply(text="Thing done.", input_tokens=11, output_tokens=3))
                spec = make_spec(binary, provider, use_plugin=plugin)
                await record_runs(spec, [case for case in cases if case.run], provider, partial)
        replace(folder, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace(folder: Path, partial: Path) -> None:
    """Replace the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    folder.chmod(0o755)


async def record_runs(spec: OpencodeSpec, cases: list[Case], provider: ScriptedProvider, to: Path) -> None:
    slots = asyncio.Semaphore(2)

    async def record(case: Case) -> None:
        async with slots:
            await asyncio.to_thread(record_run, spec, case, to / case.folder / "run")

    for case in cases:
        add_rule(provider, case)
    await asyncio.gather(*(record(case) for case in cases))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    # Without the opencode config and logins of the user, but with the opencode that setup downloaded.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with tempfile.TemporaryDirectory(prefix="recording-") as home:
        os.environ |= {"HOME": home, "XDG_CACHE_HOME": str(cache)}
        os.environ |= {f"XDG_{name}_HOME": f"{home}/{name.lower()}" for name in ("CONFIG", "DATA", "STATE")}
        asyncio.run(record_all(arguments.to.resolve()))


if __name__ == "__main__":
    main()
