"""The relay of a sandbox and its placeholders, against a real HTTP server."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import resource
import socket
import sys
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.provider_access import BEDROCK_VARIABLE, access_to, host_of
from opencode_tasks.opencode.secret_values import secrets_of
from opencode_tasks.sandbox.placeholders import Placeholders
from opencode_tasks.sandbox.relay import (
    MAX_CONNECTIONS,
    REFUSED_HEADER,
    STATUS_REFUSED,
    TARGET_HEADER,
    Relay,
)

SECRET = "a/secret&with=signs+"


@asynccontextmanager
async def provider(answer: Any) -> AsyncGenerator[str]:
    """The address of a server that answers with a handler of aiohttp."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def echo(request: web.Request) -> web.Response:
    """The URL and the headers of a request."""
    return web.json_response({"url": str(request.rel_url), "headers": dict(request.headers)})


@asynccontextmanager
async def relay_to(answer: Any, folder: Path, **options: Any) -> AsyncGenerator[tuple[Relay, str]]:
    """A relay to one provider, and the address of the provider."""
    async with provider(answer) as address:
        host = host_of(address) or ""
        placeholders = options.pop("placeholders", Placeholders())
        async with Relay([host], [host], placeholders, folder, **options) as relay:
            yield relay, address


@asynccontextmanager
async def session_of(relay: Relay) -> AsyncGenerator[aiohttp.ClientSession]:
    """A client of a relay."""
    connector = aiohttp.UnixConnector(str(relay.socket), limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        yield session


@asynccontextmanager
async def asked(relay: Relay, url: str, **headers: str) -> AsyncGenerator[aiohttp.ClientResponse]:
    """The relay's answer to a request for a URL."""
    connector = aiohttp.UnixConnector(str(relay.socket))
    async with (
        aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
        session.post(
            "http://relay/", headers={TARGET_HEADER: url, **headers}, allow_redirects=False
        ) as answer,
    ):
        yield answer


def test_secrets_take_the_place_of_placeholders_for_their_hosts_alone(tmp_path: Path) -> None:
    async def check() -> None:
        async with provider(echo) as one, provider(echo) as two:
            hosts = [host_of(one) or "", host_of(two) or ""]
            placeholders = Placeholders()
            name = placeholders.add(SECRET, hosts[:1])
            basic = "Basic " + base64.b64encode(f"me:{name}".encode()).decode()
            async with Relay(hosts, hosts, placeholders, tmp_path) as relay:
                headers = {"Authorization": f"Bearer {name}", "X-Auth": basic, "Referer": name}
                async with asked(relay, f"{one}/{name}?key={name}&q={name}", **headers) as found:
                    seen = await found.json()
                async with asked(relay, f"{two}/v1?key={name}", X=f"Bearer {name}") as found:
                    other = await found.json()
            assert seen["headers"]["Authorization"] == f"Bearer {SECRET}"
            assert base64.b64decode(seen["headers"]["X-Auth"].split()[1]).decode() == f"me:{SECRET}"
            assert seen["headers"]["Host"] == hosts[0]
            assert TARGET_HEADER not in {key.lower() for key in seen["headers"]}
            # What a provider may repeat keeps the placeholder.
            assert seen["url"] == f"/{name}?key=a%2Fsecret%26with%3Dsigns%2B&q={name}"
            assert seen["headers"]["Referer"] == name
            assert SECRET not in str(other)
            assert relay.count.refused == 0
            assert not relay.socket.exists()

    asyncio.run(check())


FOREIGN = "sk-the-account-of-an-attacker"
# Stands for the placeholder of a run, whose text is random.
OWN = "OWN"


async def _status(relay: Relay, url: str, headers: list[tuple[str, str]], own: str) -> int:
    given = [(name, value.replace(OWN, own)) for name, value in headers]
    given.append((TARGET_HEADER, url.replace(OWN, own)))
    async with session_of(relay) as session, session.post("http://relay/", headers=given) as found:
        return found.status


def _basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("headers", "suffix"),
    [
        ([("Authorization", f"Bearer {FOREIGN}")], ""),
        ([("x-api-key", OWN), ("x-api-key", FOREIGN)], ""),
        ([("x-api-key", FOREIGN), ("x-api-key", OWN)], ""),
        ([("Authorization", f"Bearer {OWN}, Bearer {FOREIGN}")], ""),
        ([("Authorization", f"Bearer {OWN}"), ("X-Auth-Token", FOREIGN)], ""),
        ([("Authorization", _basic(FOREIGN + ":"))], ""),
        ([("Authorization", _basic(f"me:{FOREIGN}"))], ""),
        ([("Cookie", f"session={FOREIGN}")], ""),
        ([("Ocp-Apim-Subscription-Key", FOREIGN)], ""),
        ([], f"?key={FOREIGN}"),
        ([], f"?key={OWN}&key={FOREIGN}"),
        ([], f"?%6bey={FOREIGN}"),
        ([], f"?q=1;access_token={FOREIGN}"),
        ([], f"?X-Amz-Signature={FOREIGN}"),
        ([], "user"),
    ],
    ids=str,
)
def test_a_key_of_somebody_else_is_refused(
    tmp_path: Path, headers: list[tuple[str, str]], suffix: str
) -> None:
    async def check() -> None:
        placeholders = Placeholders()
        own = placeholders.add("the-key-of-this-run", [])
        async with relay_to(echo, tmp_path, placeholders=placeholders) as (relay, address):
            url = f"{address}/v1{suffix}" if suffix != "user" else address.replace("//", f"//me:{FOREIGN}@")
            assert await _status(relay, url, headers, own) == STATUS_REFUSED
            assert (relay.count.refused, relay.count.requests) == (1, 0)
            assert relay.refused == {host_of(address)}

    asyncio.run(check())


@pytest.mark.parametrize(
    ("headers", "suffix"),
    [
        ([("Authorization", "Bearer public")], ""),
        ([("Authorization", f"Bearer {OWN}"), ("x-api-key", OWN)], f"?key={OWN}"),
        ([("Idempotency-Key", "stainless-node-retry-0123456789")], ""),
        ([("X-Author", "Augusta Ada King, London")], "?q=a-long-text-without-meaning"),
        ([("x-opencode-session", "ses_0123456789abcdefghij")], ""),
    ],
    ids=str,
)
def test_a_request_without_another_key_passes(
    tmp_path: Path, headers: list[tuple[str, str]], suffix: str
) -> None:
    async def check() -> None:
        placeholders = Placeholders()
        async with relay_to(echo, tmp_path, placeholders=placeholders) as (relay, address):
            own = placeholders.add("the-key-of-this-run", [host_of(address) or ""])
            assert await _status(relay, address + suffix, headers, own) == 200
            assert (relay.count.refused, relay.count.requests) == (0, 1)

    asyncio.run(check())


def test_requests_by_every_method_are_counted_and_others_than_those_of_providers_refused(
    tmp_path: Path,
) -> None:
    async def check() -> None:
        async with relay_to(echo, tmp_path) as (relay, address), session_of(relay) as session:
            statuses: dict[str, int] = {}
            for method in ("POST", "GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
                data = b"12345" if method in ("POST", "GET", "PUT") else None
                headers = {TARGET_HEADER: address}
                async with session.request(method, "http://relay/", headers=headers, data=data) as found:
                    statuses[method] = found.status
            assert [name for name, status in statuses.items() if status == 200] == ["POST", "GET", "HEAD"]
            count = relay.count
            assert (count.requests, count.answered, count.refused, count.bytes_sent) == (3, 1, 5, 10)
            assert count.bytes_received > 0

    asyncio.run(check())


CONNECTIONS = """
import socket, sys
opened = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[2]))]
for one in opened:
    one.connect(sys.argv[1])
print(*{one.recv(1000).split()[1].decode() for one in opened}, flush=True)
sys.stdin.read()
"""


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_connections_of_another_program_hold_no_files_of_this_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        async with relay_to(echo, tmp_path) as (relay, address):
            async with asked(relay, address) as found:
                assert found.status == 200
            before = _open_files()
            program = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", CONNECTIONS, str(relay.socket), "300"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert program.stdin is not None
            assert program.stdout is not None
            assert (await program.stdout.readline()).decode().strip() == str(STATUS_REFUSED)
            async with asked(relay, address) as found:
                assert found.status == 200
            # The three are the pipes of the program, and what watches it.
            assert _open_files() <= before + 3
            program.stdin.close()
            await program.wait()
            assert (relay.count.refused, relay.refused) == (300, {"a program of the workspace"})

    asyncio.run(check())
    assert not caplog.records


def test_what_is_not_http_is_refused_without_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        async with relay_to(echo, tmp_path) as (relay, _):
            reader, writer = await asyncio.open_unix_connection(relay.socket)
            writer.write(b"FOO / HTTP/1.1\r\n\r\n")
            assert b" 400 " in await reader.readline()
            writer.close()

    asyncio.run(check())
    assert not caplog.records


def test_opencode_itself_holds_a_limited_number_of_connections(tmp_path: Path) -> None:
    async def check() -> None:
        async with relay_to(echo, tmp_path) as (relay, address):
            opened = [await asyncio.open_unix_connection(relay.socket) for _ in range(MAX_CONNECTIONS + 5)]
            assert b" 599 " in await opened[-1][0].readline()
            for _, writer in opened:
                writer.close()
                await writer.wait_closed()
            async with asked(relay, address) as found:
                assert found.status == 200
            assert relay.count.refused == 5

    asyncio.run(check())


def test_a_relay_without_a_free_file_serves_again_when_there_is_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        async with relay_to(echo, tmp_path) as (relay, address):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            loop, (_, hard) = asyncio.get_running_loop(), resource.getrlimit(resource.RLIMIT_NOFILE)
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            # No file can be opened: the numbers below are taken, as this one is.
            taken = os.open(os.devnull, os.O_RDONLY)
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
            try:
                await loop.sock_connect(client, str(relay.socket))
                request = f"GET / HTTP/1.1\r\nHost: relay\r\n{TARGET_HEADER}: {address}\r\n\r\n"
                await loop.sock_sendall(client, request.encode())
                await asyncio.sleep(0.5)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                os.close(taken)
            assert b" 200 OK" in await loop.sock_recv(client, 1000)
            client.close()

    asyncio.run(check())
    assert not caplog.records


SIZE_BYTES = 200_000_000


def test_a_large_request_and_a_large_answer_take_little_memory(tmp_path: Path) -> None:
    part = bytes(1_000_000)

    async def mirror(request: web.Request) -> web.StreamResponse:
        async for _ in request.content.iter_any():
            pass
        response = web.StreamResponse()
        response.content_length = SIZE_BYTES
        await response.prepare(request)
        for _ in range(SIZE_BYTES // len(part)):
            await response.write(part)
        return response

    async def parts() -> AsyncGenerator[bytes]:
        for _ in range(SIZE_BYTES // len(part)):
            yield part

    async def check() -> int:
        async with relay_to(mirror, tmp_path) as (relay, address), session_of(relay) as session:
            headers = {TARGET_HEADER: address, "Content-Length": str(SIZE_BYTES)}
            tracemalloc.start()
            async with session.post("http://relay/", headers=headers, data=parts()) as found:
                received = sum([len(data) async for data in found.content.iter_any()])
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            count = relay.count
            assert (received, count.bytes_sent, count.bytes_received) == (SIZE_BYTES,) * 3
        return peak

    assert asyncio.run(check()) < 20_000_000


def test_a_body_beyond_the_limit_is_refused_or_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opencode_tasks.sandbox.relay.MAX_BODY_BYTES", 100_000)
    arrived: list[int] = []

    async def sink(request: web.Request) -> web.Response:
        arrived.append(len(await request.read()))
        return web.Response(body=bytes(100_001) if request.method == "GET" else b"")

    async def parts(size: int) -> AsyncGenerator[bytes]:
        for _ in range(0, size, 1000):
            yield bytes(1000)

    async def check() -> None:
        async with relay_to(sink, tmp_path) as (relay, address), session_of(relay) as session:
            headers = {TARGET_HEADER: address}
            for data in (bytes(100_001), parts(101_000)):
                async with session.post("http://relay/", headers=headers, data=data) as found:
                    assert (found.status, "has more than" in await found.text()) == (STATUS_REFUSED, True)
            async with session.post("http://relay/", headers=headers, data=parts(100_000)) as found:
                assert found.status == 200
            async with session.get("http://relay/", headers=headers) as found:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await found.read()
            assert arrived == [100_000, 0]
            assert relay.count.refused == 3

    asyncio.run(check())


def test_a_compressed_request_arrives_as_it_was_sent(tmp_path: Path) -> None:
    async def raw(request: web.Request) -> web.Response:
        assert request.headers["Content-Encoding"] == "gzip"
        return web.Response(body=await request.read())

    async def check() -> None:
        async with relay_to(raw, tmp_path) as (relay, address), session_of(relay) as session:
            headers = {TARGET_HEADER: address, "Content-Encoding": "gzip"}
            async with session.post("http://relay/", headers=headers, data=gzip.compress(b"x" * 99)) as found:
                assert (found.status, await found.read()) == (200, b"x" * 99)
            assert relay.count.bytes_sent < 99

    asyncio.run(check())


def test_short_and_common_words_stay_where_no_secret_is_expected() -> None:
    placeholders = Placeholders()
    placeholders.add("postgres", ["h:1"])
    long = "a-long-key-0123456789"
    placeholders.add(long, ["h:1"])
    config = {"model": "postgres/7b", "prompt": f"Ask postgres. {long}", "apiKey": "postgres"}
    hidden = placeholders.hidden_json(config, lambda name: name == "apiKey")
    assert (hidden["model"], hidden["prompt"].startswith("Ask postgres. placeholder-")) == (
        "postgres/7b",
        True,
    )
    assert hidden["apiKey"].startswith("placeholder-")
    assert placeholders.revealed("authorization", f"Bearer {hidden['apiKey']}", "h:1") == "Bearer postgres"


@pytest.mark.parametrize(
    "url", ["", "nonsense", "http://", "file:///etc/passwd", "http://other.example/", "http://127.0.0.1:1/"]
)
def test_only_named_hosts_are_reached(tmp_path: Path, url: str) -> None:
    async def check() -> None:
        async with Relay(["127.0.0.1:80"], [], Placeholders(), tmp_path) as relay:
            async with asked(relay, url) as found:
                assert (found.status, REFUSED_HEADER in found.headers) == (STATUS_REFUSED, True)
            assert relay.count.refused == 1
            assert relay.refused

    asyncio.run(check())


def test_an_answer_is_passed_on_as_it_comes_and_breaks_off_where_it_broke(tmp_path: Path) -> None:
    may_go_on = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=203, headers={"x-limit": "7"})
        await response.prepare(request)
        await response.write(b"first")
        await may_go_on.wait()
        assert request.transport is not None
        request.transport.abort()
        return response

    async def check() -> None:
        async with provider(slow) as address:
            host = host_of(address) or ""
            async with (
                Relay([host], [host], Placeholders(), tmp_path) as relay,
                asked(relay, address) as found,
            ):
                assert (found.status, found.headers["x-limit"]) == (203, "7")
                assert await found.content.readany() == b"first"
                may_go_on.set()
                with pytest.raises(aiohttp.ClientPayloadError):
                    await found.content.read()
            assert relay.count.bytes_received == len(b"first")

    asyncio.run(check())


def test_a_redirect_is_not_followed_and_a_closed_port_is_no_answer(tmp_path: Path) -> None:
    async def away(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://169.254.169.254/"})

    async def check() -> None:
        async with provider(away) as address:
            hosts = [host_of(address) or "", "127.0.0.1:1"]
            async with Relay(hosts, hosts, Placeholders(), tmp_path) as relay:
                async with asked(relay, address) as found:
                    assert found.status == 302
                async with asked(relay, "http://127.0.0.1:1/") as found:
                    reason = base64.b64decode(found.headers[REFUSED_HEADER]).decode()
            assert reason.startswith("unable to connect: ")

    asyncio.run(check())


def test_a_request_that_is_given_up_is_given_up_at_the_provider(tmp_path: Path) -> None:
    has_come, is_gone = asyncio.Event(), asyncio.Event()

    async def silent(request: web.Request) -> web.Response:
        has_come.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            is_gone.set()
            raise
        return web.Response()

    async def check() -> None:
        async with provider(silent) as address:
            host = host_of(address) or ""
            async with Relay([host], [host], Placeholders(), tmp_path) as relay:

                async def ask() -> None:
                    async with asked(relay, address):
                        pass

                asking = asyncio.ensure_future(ask())
                await has_come.wait()
                asking.cancel()
                await asyncio.wait_for(is_gone.wait(), 20)

    asyncio.run(check())


def test_a_long_folder_has_its_socket_elsewhere(tmp_path: Path) -> None:
    async def check() -> None:
        folder = tmp_path / ("long" * 40)
        folder.mkdir()
        async with Relay([], [], Placeholders(), folder) as relay, asked(relay, "http://x/") as found:
            assert found.status == STATUS_REFUSED
        assert not relay.socket.parent.exists()

    asyncio.run(check())


AWS = "amazonaws.com:443"


@pytest.mark.parametrize(
    ("npm", "options", "environ", "login", "hosts", "signs"),
    [
        ("openai", {}, {}, "api", ["api.openai.com:443"], False),
        ("openai", {}, {"OPENAI_BASE_URL": "http://gate:8080/v1"}, None, ["gate:8080"], False),
        ("anthropic", {"baseURL": "http://[::1]:9/v1"}, {}, None, ["::1:9"], False),
        (
            "google-vertex",
            {"location": "l"},
            {},
            None,
            [f"{n}.googleapis.com:443" for n in ("l-aiplatform", "aiplatform", "oauth2")],
            True,
        ),
        (
            "azure",
            {"resourceName": "r"},
            {},
            None,
            ["r.openai.azure.com:443", "r.services.ai.azure.com:443"],
            False,
        ),
        ("amazon-bedrock", {"region": "eu-west-1"}, {}, None, [f"bedrock-runtime.eu-west-1.{AWS}"], True),
        ("amazon-bedrock", {}, {BEDROCK_VARIABLE: "t"}, None, [f"bedrock-runtime.us-east-1.{AWS}"], False),
        ("unknown", {}, {}, None, [], False),
    ],
)
def test_the_hosts_of_a_provider_and_whether_it_signs(
    npm: str,
    options: dict[str, str],
    environ: dict[str, str],
    login: str | None,
    hosts: list[str],
    signs: bool,
) -> None:
    models = {"m": {"api": {"npm": f"@ai-sdk/{npm}", "url": ""}}}
    given = {"id": "p", "env": ["P_KEY"], "options": options, "models": models}
    access = access_to(given, ["m"], login, environ)
    assert ([*access.hosts], access.signs) == (hosts, signs)
    assert access.variables[0] == "P_KEY"


def test_values_of_references_are_secrets_in_headers_and_at_names_for_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = {
        "GATEWAY_URL": "https://gateway.example.com/v1",
        "RESOURCE": "our-resource-name-prod",
        "PORTAL": "portal-pass-0123456789",
        "PHRASE": "phrase-of-the-team-01234",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LONG_HOME", str(tmp_path))
    options = {
        "baseURL": "{env:GATEWAY_URL}",
        "resourceName": "{env:RESOURCE}",
        "headers": {"X-Portal": "{env:PORTAL}"},
        "passphrase": "{env:PHRASE}",
        "folderKey": "{env:LONG_HOME}",
    }
    spec = OpencodeSpec(binary=Path("opencode"), config={"provider": {"p": {"options": options}}})
    found = set(secrets_of(spec))
    assert {values["PORTAL"], values["PHRASE"]} <= found
    assert found.isdisjoint({values["GATEWAY_URL"], values["RESOURCE"], str(tmp_path)})
