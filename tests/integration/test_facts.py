"""One test for each fact of opencode that the code leans on and no other test shows."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest
from attached_files import data_url, png, received
from rig import BASH, Rig

from opencode_tasks.domain.records import Session
from opencode_tasks.errors import RateLimitError, SetupError
from opencode_tasks.opencode.backend import Clocks, OpencodeSpec, Request
from opencode_tasks.opencode.client import USER, Response
from opencode_tasks.opencode.instance_dir import environment, make_instance_dir
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.testing import Reply, ScriptedProvider

T = TypeVar("T")
# They can change with opencode alone, whose version is pinned.
pytestmark = pytest.mark.nightly


def with_server(spec: OpencodeSpec, work: Callable[[OpencodeServer], Awaitable[T]]) -> T:
    """Do something with a server of the test's own."""

    async def run() -> T:
        server = await OpencodeServer.start(spec)
        try:
            return await work(server)
        finally:
            await server.aclose()

    return server_pool.call(run)


async def say(server: OpencodeServer, session_id: str, text: str, **more: Any) -> Response:
    model = {"providerID": "fake", "modelID": "echo"}
    body = {"agent": "opencode-tasks", "model": model, "parts": [{"type": "text", "text": text}], **more}
    return await server.post(f"/session/{session_id}/message", body, timeout_s=30)


async def new_session(server: OpencodeServer) -> str:
    return (await server.post("/session", {"title": "fact"})).json()["id"]


def assistant_infos(session: Session) -> list[Mapping[str, Any]]:
    return [m["info"] for m in session.messages if m["info"]["role"] == "assistant"]


def test_a_messages_tokens_are_of_its_last_step_while_its_parts_add_up(rig: Rig) -> None:
    asked = rig.ask(
        Reply(tool_calls=[BASH], input_tokens=100, output_tokens=20),
        Reply(text="done", input_tokens=200, output_tokens=7),
        agent="worker",
        system=None,
    )
    (session,) = asked.attempt.sessions
    infos = assistant_infos(session)
    assert [step.usage.input_tokens for step in session.steps] == [100, 200]
    assert sum(step.usage.cost_pico or 0 for step in session.steps) == sum(
        round(i["cost"] * 1e12) for i in infos
    )
    assert infos[-1]["tokens"]["input"] == 200


@pytest.mark.parametrize(
    ("model", "source", "cost"), [("fake/unpriced", "unpriced", None), ("fake/free", "reported", 0)]
)
def test_opencode_reports_a_cost_of_0_for_an_unpriced_model_too(
    rig: Rig, model: str, source: str, cost: int | None
) -> None:
    asked = rig.ask(Reply(text="x", input_tokens=100, output_tokens=20), model=model)
    (step,) = asked.attempt.steps
    assert assistant_infos(asked.attempt.sessions[0])[-1]["cost"] == 0
    assert (step.cost_source, step.usage.cost_pico) == (source, cost)


def test_the_events_tell_what_reading_back_tells(rig: Rig) -> None:
    async def both() -> tuple[list[Session], list[Session]]:
        server = await rig.server()
        gaps = server.gaps
        backend: Any = await rig.backend("server", rig.spec)
        kept: list[str] = []
        result = await backend.run(
            Request(prompt="told twice", model_ref="fake/echo", agent="worker"), kept.append
        )
        read_back = await backend.server.read_sessions(kept[0], backend.unpriced)
        backend.release_session(kept[0])
        assert server.gaps == gaps
        return result.sessions, read_back

    rig.provider.on("told twice", Reply(tool_calls=[BASH], reasoning_text="hm"), Reply(text="done"))
    from_events, read_back = server_pool.call(both)
    assert from_events == read_back


def test_a_folders_event_stream_tells_each_change_once(rig: Rig) -> None:
    seen: list[str] = []

    async def watch() -> None:
        server = await rig.server()
        take = server._add_event

        def both(data: str) -> None:
            seen.append(data)
            take(data)

        server._add_event = both  # type: ignore[method-assign]
        try:
            await say(server, await new_session(server), "counted")
            async with asyncio.timeout(10):
                while not any('"session.idle"' in data for data in seen):  # noqa: ASYNC110  it is theirs
                    await asyncio.sleep(0.02)
        finally:
            del server._add_event

    server_pool.call(watch)
    kinds = [json.loads(data)["type"] for data in seen]
    assert kinds.count("message.updated") >= 2
    # The stream of all folders has one of these beside each change.
    assert "sync" not in kinds


def test_a_request_names_its_session_without_a_header_of_ours(rig: Rig) -> None:
    asked = rig.ask(Reply(text="x"))
    headers = asked.calls[0].headers
    assert "x-opencode-tasks-session" not in headers
    assert headers["x-session-affinity"] == asked.attempt.session_id


def test_a_session_is_known_although_the_users_config_replaces_opencodes_header(rig: Rig) -> None:
    asked = rig.ask(Reply(status=429, headers={"Retry-After": "7200"}), model="fake/pinned")
    asked.failed(RateLimitError)
    (call,) = asked.calls
    assert call.headers["x-session-affinity"] == "team-7"
    assert call.headers["x-opencode-tasks-session"] == asked.attempt.session_id


def test_an_unknown_agent_is_replaced_in_silence_by_run(rig: Rig) -> None:
    asked = rig.ask(Reply(text="x"), agent="nobody", backend="cli")
    assert asked.text == "x"
    assert asked.calls[0].body.get("tools")
    assert "not found" in asked.attempt.stderr


def test_an_unknown_model_is_named_in_the_events_only(rig: Rig) -> None:
    asked = rig.ask(model="fake/nope")
    error = asked.error
    assert error is not None
    assert error.error_type == "invalid_request"
    assert "Model not found: fake/nope" in error.raw_message

    async def post() -> Response:
        server = await rig.server()
        return await say(
            server, await new_session(server), "x", model={"providerID": "fake", "modelID": "nope"}
        )

    response = server_pool.call(post)
    assert response.status == 500
    assert "nope" not in response.text


def test_an_aborted_wait_looks_like_a_success(unplugged: Rig) -> None:
    unplugged.provider.on("waits", Reply(status=429, headers={"Retry-After": "7200"}))

    async def abort() -> tuple[Response, float]:
        server = await unplugged.server()
        session_id = await new_session(server)
        state = server.fold.watch(session_id, time.monotonic())
        sending = asyncio.create_task(say(server, session_id, "waits"))
        async with asyncio.timeout(20):
            while state.retry is None:  # noqa: ASYNC110 - the library's state is looked at from outside
                await asyncio.sleep(0.02)
        started = time.monotonic()
        await server.post(f"/session/{session_id}/abort")
        response = await sending
        server.fold.forget(session_id)
        return response, time.monotonic() - started

    response, seconds = server_pool.call(abort)
    assert response.status == 200
    assert "error" not in response.json()["info"]
    assert response.json()["info"]["tokens"]["output"] == 0
    assert seconds < 5


def test_a_positional_prompt_would_be_altered(rig: Rig, tmp_path: Path) -> None:
    home = make_instance_dir(tmp_path)
    env = environment(home, rig.spec, password=None, journal_events=False)
    command = [str(rig.spec.binary), "run", "--format", "json", "--title", "t", "--model", "fake/echo"]
    command += ["--agent", "opencode-tasks", "--dir", str(home.work), "hello there"]
    before = len(rig.provider.calls)
    with home.output.open("w") as out:
        subprocess.run(
            command, env=env, cwd=home.work, stdin=subprocess.DEVNULL, stdout=out, timeout=60, check=True
        )
    assert [call.prompt for call in rig.provider.calls[before:]] == ['"hello there"']


def test_no_npm_install_at_start_and_libraries_go_to_the_private_folder(rig: Rig) -> None:
    rig.ask(Reply(text="x"))

    async def home() -> tuple[Path, Path]:
        server = await rig.server()
        return server.instance_dir.run / "config" / "opencode", server.instance_dir.run / "tmp"

    config, temporary = server_pool.call(home)
    files = [path for path in (config / "node_modules").rglob("*") if path.is_file()]
    assert {str(path.relative_to(config / "node_modules")) for path in files} == {
        "@opencode-ai/plugin/index.js",
        "@opencode-ai/plugin/package.json",
    }
    assert list(temporary.glob(".*.so"))
    assert not list(Path(tempfile.gettempdir()).glob(".*.so"))


def test_a_refreshed_login_is_written_through_the_link_to_the_users_store(
    opencode_binary: Path, provider: ScriptedProvider
) -> None:
    store = Path(os.environ["XDG_DATA_HOME"]) / "opencode" / "auth.json"
    store.parent.mkdir(exist_ok=True)
    login = {"type": "oauth", "refresh": "r0", "access": "a0", "expires": 1}
    store.write_text(json.dumps({"fake": login, "other": {"type": "api", "key": "k"}}))
    store.chmod(0o600)
    spec = OpencodeSpec(binary=opencode_binary, config=provider.opencode_config(), model_ref="fake/echo")

    async def refresh(server: OpencodeServer) -> tuple[bool, int]:
        link = server.instance_dir.data / "opencode" / "auth.json"
        fresh = {**login, "refresh": "r1", "access": "a1", "expires": 2}
        password = psutil.Process(server.process.pid).environ()["OPENCODE_SERVER_PASSWORD"]
        async with httpx.AsyncClient(auth=(USER, password), trust_env=False, timeout=30) as client:
            response = await client.put(f"{server.client.url}/auth/fake", json=fresh)
        return link.is_symlink(), response.status_code

    try:
        is_link, status = with_server(spec, refresh)
        assert status == 200
        assert is_link
        kept = json.loads(store.read_text())
        assert kept["fake"]["refresh"] == "r1"
        assert kept["other"] == {"type": "api", "key": "k"}
        assert store.stat().st_mode & 0o777 == 0o600
    finally:
        store.unlink()


def test_whose_config_holds(opencode_binary: Path, provider: ScriptedProvider, tmp_path: Path) -> None:
    """The user's global config is in force, a project's is not, and our safety keys are over all."""
    folder = Path(os.environ["XDG_CONFIG_HOME"]) / "opencode"
    folder.mkdir(exist_ok=True)
    globally = provider.opencode_config(name="globally")
    globally["provider"]["globally"]["options"]["timeout"] = 60_000
    (folder / "opencode.json").write_text(json.dumps({**globally, "username": "global"}))
    (tmp_path / "opencode.json").write_text(json.dumps({"username": "project", "instructions": ["x.md"]}))
    loose = {"mode": "primary", "prompt": "Loose.", "tools": {"bash": True}, "permission": {"bash": "allow"}}
    config = {
        **provider.opencode_config(),
        "share": "auto",
        "autoupdate": True,
        "agent": {"opencode-tasks": loose},
    }
    clocks = Clocks(first_event_s=900, stall_s=900, total_s=900)
    spec = OpencodeSpec(binary=opencode_binary, config=config, clocks=clocks, work_dir=tmp_path)

    async def resolved(server: OpencodeServer) -> tuple[dict[str, Any], str]:
        session_id = await new_session(server)
        response = await say(server, session_id, "whose")
        return await server.get("/config"), response.json()["parts"][-1].get("type", "")

    try:
        found, _ = with_server(spec, resolved)
    finally:
        (folder / "opencode.json").unlink()
    # Opencode's own limits of 300 s would end a request before the clocks of the run do.
    limits = found["provider"]["globally"]["options"]
    assert limits["headerTimeout"] == limits["chunkTimeout"] == 930_000
    assert limits["timeout"] == 60_000, "the user's own value stays"
    assert found["username"] == "global"
    assert not found.get("instructions")
    assert (found["share"], found["autoupdate"]) == ("disabled", False)
    assert provider.calls[-1].system == "You are a helpful assistant."
    assert not provider.calls[-1].body.get("tools")


def test_a_broken_config_is_refused_with_opencodes_words(opencode_binary: Path) -> None:
    spec = OpencodeSpec(
        binary=opencode_binary, config={"provider": {"fake": {"models": 7}}}, model_ref="fake/echo"
    )

    async def nothing(server: OpencodeServer) -> None:
        del server

    with pytest.raises(SetupError) as caught:
        with_server(spec, nothing)
    assert "ConfigInvalidError: provider.fake.models: Expected object" in str(caught.value)


def test_provider_timeouts_come_after_our_clocks(rig: Rig) -> None:
    async def options() -> dict[str, Any]:
        return (await (await rig.server()).get("/config"))["provider"]["fake"]["options"]

    found = server_pool.call(options)
    clocks = rig.spec.clocks
    assert found["headerTimeout"] > clocks.first_event_s * 1000
    assert found["chunkTimeout"] > clocks.stall_s * 1000
    assert found["timeout"] > clocks.total_s * 1000


def test_two_system_texts_share_a_server(rig: Rig) -> None:
    async def server_of(system: str) -> OpencodeServer:
        return await server_pool.server(replace(rig.spec, system=system))

    assert server_pool.call(server_of, "one") is server_pool.call(server_of, "two")


RECORDINGS = Path(__file__).parent.parent / "recordings"


@pytest.mark.timeout(500)
def test_recordings_made_now_have_the_committed_shapes(opencode_binary: Path, tmp_path: Path) -> None:
    del opencode_binary
    subprocess.run([sys.executable, RECORDINGS / "record.py", "--to", tmp_path], check=True, timeout=450)
    (made,) = tmp_path.iterdir()
    committed = RECORDINGS / made.name
    names = {path.relative_to(made) for path in made.rglob("*.json")}
    assert names == {path.relative_to(committed) for path in committed.rglob("*.json")}
    differences: list[str] = []
    for name in sorted(names):
        now, then = (shape(json.loads((folder / name).read_text())) for folder in (made, committed))
        if name.parts[0] == "cut":
            # Whether opencode begins to retry a broken stream depends on the moment of the break.
            now, then = ({path for path in paths if "status<retry>" not in path} for paths in (now, then))
        differences += [f"{name}: gone: {path}" for path in sorted(then - now)]
        differences += [f"{name}: new: {path}" for path in sorted(now - then)]
    assert differences == []


def shape(value: Any, at: str = "$") -> set[str]:
    """The paths in a JSON value with their types; a list's elements share one path.

    The type of an event or part is in its path, since each type has different keys.
    """
    if isinstance(value, dict):
        kind = value.get("type")
        at = f"{at}<{kind}>" if isinstance(kind, str) else at
        return {f"{at}: object"}.union(*(shape(item, f"{at}.{key}") for key, item in value.items()))
    if isinstance(value, list):
        return {f"{at}: list"}.union(*(shape(item, f"{at}[]") for item in value))
    # JSON has one kind of number, and a cost of 0 is written without a point.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {f"{at}: {'number' if is_number else type(value).__name__}"}


def test_files_of_the_api_and_of_run_reach_a_model_differently(rig: Rig, tmp_path: Path) -> None:
    """So the plugin attaches the files of rows itself, in both backends, and no model gets an error text."""
    takes = {"modalities": {"input": ["text", "image"], "output": ["text"]}}
    with Rig(rig.spec.binary, extra={"provider": {"fake": {"models": {"seer": takes}}}}) as own:
        large = png(2100, 20)
        images = {name: data_url("image/png", content) for name, content in (("a", png()), ("l", large))}

        async def work(server: OpencodeServer) -> list[Any]:
            found: list[Any] = []
            for model, name in (("echo", "a"), ("seer", "a"), ("seer", "l")):
                part = {"type": "file", "mime": "image/png", "filename": "a.png", "url": images[name]}
                body = {
                    "agent": "opencode-tasks",
                    "model": {"providerID": "fake", "modelID": model},
                    "parts": [{"type": "text", "text": "Q?"}, part],
                }
                await server.post(f"/session/{await new_session(server)}/message", body, timeout_s=60)
                found.append(received(own.provider.calls[-1]))
            providers = await server.get("/config/providers")
            (fake,) = [one for one in providers["providers"] if one["id"] == "fake"]
            return [*found, fake["models"]["echo"]["capabilities"]["input"]["image"]]

        refused, sent, scaled, is_declared = with_server(own.spec, work)
        text = 'ERROR: Cannot read "a.png" (this model does not support image input). Inform the user.'
        assert refused == ["Q?", text]
        assert is_declared is False
        assert sent == ["Q?", ("image/png", png())]
        assert scaled[1][1] != large
        path = tmp_path / "t.txt"
        path.write_text("of the file\n")
        spec = replace(own.spec, model_ref="fake/seer", extra_cli_args=("--file", str(path)))
        own.spec = spec
        shown = json.dumps(own.ask(backend="cli", prompt="Q?", model="fake/seer").calls[-1].body)
        assert str(path) in shown
        assert "1: of the file" in shown
