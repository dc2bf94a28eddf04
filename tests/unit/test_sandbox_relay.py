"""The relay of a sandbox and its placeholders, against a real HTTP server."""

from __future__ import annotations

import asyncio
import base64
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
from opencode_tasks.sandbox.relay import REFUSED_HEADER, STATUS_REFUSED, TARGET_HEADER, Relay

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


def test_a_key_of_somebody_else_is_refused(tmp_path: Path) -> None:
    async def check() -> None:
        async with provider(echo) as address:
            host = host_of(address) or ""
            key = "sk-the-account-of-an-attacker"
            async with Relay([host], [host], Placeholders(), tmp_path) as relay:
                for header in ({"Authorization": f"Bearer {key}"}, {"x-api-key": key}):
                    async with asked(relay, address, **header) as found:
                        assert found.status == STATUS_REFUSED
                async with asked(relay, address, Authorization="Bearer public") as found:
                    assert found.status == 200
                assert (relay.count.refused, relay.refused) == (2, {host})

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
