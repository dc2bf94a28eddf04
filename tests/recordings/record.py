"""Create the recordings in this folder with the installed opencode.

    python tests/recordings/record.py [--to DIR] [FOLDER…]

Each case is one behavior of a provider (``recorded_cases.py``); those of each wire of the scripted provider
are in ``wires/WIRE/``. ``FOLDER`` records only the cases whose folder begins with it, such as ``wires/xai``.
A case is recorded with a running server (``server/``: answer, messages, messages of child sessions, events),
and with ``opencode run`` and ``opencode export`` (``run/``). Cases with ``without-plugin`` record opencode
without the plugin; a wait is aborted after its first event. Ids, times, paths and ports are replaced, so that
the recordings of two runs differ little.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recorded_cases import AGENTS, CASES, WIRES, Case
from scrubber import Scrubber

from opencode_tasks.opencode.backend import Clocks, OpencodeSpec, Request
from opencode_tasks.opencode.binary import PINNED_VERSION
from opencode_tasks.opencode.cli_backend import run_arguments
from opencode_tasks.opencode.config import merge
from opencode_tasks.opencode.install import install_opencode
from opencode_tasks.opencode.instance_dir import environment, make_instance_dir
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.outcomes.cli_output import parse_events, parse_session_id
from opencode_tasks.system import GuardedProcess, run_command
from opencode_tasks.testing import Reply, ScriptedProvider

LIMIT_S = 240.0
EVENTS_LIMIT_S = 10.0
EVENTS_START_S = 0.5
# Events that the parsers do not read, or that differ between runs.
IGNORED_EVENTS = frozenset(
    {"sync", "server.connected", "server.heartbeat", "session.diff", "session.updated"}
)


def make_spec(binary: Path, provider: ScriptedProvider, *, use_plugin: bool) -> OpencodeSpec:
    config: dict[str, Any] = {**provider.opencode_config(), "agent": AGENTS}
    for wire in WIRES:
        config = merge(config, provider.opencode_config(name=wire, wire=wire))
    return OpencodeSpec(
        binary=binary,
        config=config,
        model_ref="fake/echo",
        clocks=Clocks(first_event_s=300, stall_s=300, total_s=300),
        use_plugin=use_plugin,
    )


async def record_server(
    spec: OpencodeSpec, cases: Sequence[Case], provider: ScriptedProvider, to: Path
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
        "model": {"providerID": case.provider_id, "modelID": "echo"},
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
        request = Request(prompt=case.prompt, model_ref=f"{case.provider_id}/echo", agent=case.agent)
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


async def record_all(cases: Sequence[Case], to: Path) -> None:
    """Record the cases to ``to``/opencode-VERSION, where their folders are replaced."""
    binary = install_opencode(print)
    folder = to / f"opencode-{PINNED_VERSION}"
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=to))
    try:
        for plugin in (True, False):
            chosen = [case for case in cases if case.plugin is plugin]
            await record_group(binary, chosen, partial, use_plugin=plugin)
        for case in cases:
            replace(folder / case.folder, partial / case.folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


async def record_group(binary: Path, cases: Sequence[Case], to: Path, *, use_plugin: bool) -> None:
    """Record cases that share an opencode config."""
    for record in (record_server, record_runs):
        chosen = [case for case in cases if case.run or record is record_server]
        if not chosen:
            continue
        with ScriptedProvider() as provider:
            provider.on("do the one thing", Reply(text="Thing done.", input_tokens=11, output_tokens=3))
            spec = make_spec(binary, provider, use_plugin=use_plugin)
            await record(spec, chosen, provider, to)


def replace(folder: Path, partial: Path) -> None:
    """Replace the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(folder)


async def record_runs(
    spec: OpencodeSpec, cases: Sequence[Case], provider: ScriptedProvider, to: Path
) -> None:
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
    parser.add_argument("folder", nargs="*", help="record only the cases whose folder begins with this")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    # Without the opencode config and logins of the user, but with the opencode that setup downloaded.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with tempfile.TemporaryDirectory(prefix="recording-") as home:
        os.environ |= {"HOME": home, "XDG_CACHE_HOME": str(cache)}
        os.environ |= {f"XDG_{name}_HOME": f"{home}/{name.lower()}" for name in ("CONFIG", "DATA", "STATE")}
        prefixes = tuple(arguments.folder) or ("",)
        cases = [case for case in CASES if case.folder.startswith(prefixes)]
        asyncio.run(record_all(cases, arguments.to.resolve()))


if __name__ == "__main__":
    main()
