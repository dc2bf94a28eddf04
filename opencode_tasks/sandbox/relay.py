"""Relay: the way of requests of a sandboxed opencode to its provider, through a Unix socket.

The sandbox has no network. The plugin sends each request to the relay, with its URL in a header. The relay
knows which hosts it may be for, puts the keys in place of their placeholders, and counts. Only the first
process that connects is served: opencode, which asks the model before it runs any tool.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import ssl
import struct
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import aiohttp
import certifi
from aiohttp import web
from yarl import URL

from opencode_tasks.domain.sandbox import RelayCount
from opencode_tasks.sandbox.placeholders import LONG, Placeholders
from opencode_tasks.sandbox.view import TEMP
from opencode_tasks.system.loopback import LOOPBACK

# Path of the socket inside of a sandbox.
INSIDE = Path("/run/opencode-tasks/relay.sock")
TARGET_HEADER = "x-opencode-tasks-target"
# The plugin reads why a request got no answer from this header, in base64.
REFUSED_HEADER = "x-opencode-tasks-relay"
KEY_HEADERS = frozenset(("authorization", "x-api-key", "api-key", "x-goog-api-key"))
MAX_BODY_BYTES = 256_000_000
CONNECT_LIMIT_S = 60.0
STATUS_REFUSED = 599
# Of the folder of the socket: the path of a Unix socket has at most 107 bytes (unix(7)).
MAX_FOLDER_BYTES = 90
# Headers of one connection (RFC 9110, section 7.6.1), and those that aiohttp sets itself.
OF_CONNECTION = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade", "host", "content-length", TARGET_HEADER),
    )
)
_CREDENTIALS = struct.Struct("3i")


class Relay:
    """The relay of one program. ``socket`` is the path of its Unix socket on this machine.

    ``hosts`` are those that it lets pass, as ``host:port``, ``counted`` those whose requests it counts. The
    socket is in ``folder`` if its path is short enough there. With ``takes_other_keys``, requests with other
    credentials than those of the run pass too.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        counted: Iterable[str],
        placeholders: Placeholders,
        folder: Path,
        *,
        takes_other_keys: bool = False,
    ) -> None:
        self.count: RelayCount = RelayCount()
        # Hosts and programs whose requests were refused.
        self.refused: set[str] = set()
        self._hosts, self._counted = frozenset(hosts), frozenset(counted)
        self._placeholders = placeholders
        self._takes_other_keys = takes_other_keys
        is_long = len(os.fsencode(folder)) > MAX_FOLDER_BYTES
        self._temporary = Path(tempfile.mkdtemp(prefix="oct-", dir=TEMP)) if is_long else None
        self.socket: Path = (self._temporary or folder) / INSIDE.name
        self._client: int | None = None
        tls = _tls()
        self._direct, self._proxied = (_session(tls=tls, uses_proxy=proxy) for proxy in (False, True))
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        """Listen."""
        self.socket.unlink(missing_ok=True)
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A request that opencode gives up is given up here too.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0, handler_cancellation=True)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket)).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, and remove the socket."""
        if self._runner is not None:
            await self._runner.cleanup()
        for session in (self._direct, self._proxied):
            await session.close()
        self.socket.unlink(missing_ok=True)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            url = URL(request.headers.get(TARGET_HEADER, ""), encoded=True)
            host = f"{url.host}:{url.port}"
        except ValueError:
            return self._refuse("a URL that is none", "the URL of the request cannot be read")
        if not self._is_opencode(request):
            return self._refuse("a program of the workspace", "only opencode itself may ask the model")
        if url.scheme not in ("http", "https") or host not in self._hosts:
            return self._refuse(host, f"the sandbox lets no request to {host} pass (--network, --allow-host)")
        return await self._send(request, url, host)

    def _is_opencode(self, request: web.Request) -> bool:
        process = _process_of(request)
        if self._client is None:
            self._client = process
        return process is not None and process == self._client

    def _refuse(self, what: str, reason: str) -> web.Response:
        self.count += RelayCount(refused=1)
        self.refused.add(what)
        return _no_answer(reason)

    async def _send(self, request: web.Request, url: URL, host: str) -> web.StreamResponse:
        reveal = self._placeholders.revealed
        headers = [(name, reveal(name, value, host)) for name, value in _passed(request.headers)]
        if not self._takes_other_keys and _has_other_key(request.headers, dict(headers)):
            return self._refuse(host, f"the request to {host} has a key that is not one of this run")
        body = await request.read()
        is_counted = host in self._counted and request.method == "POST"
        if is_counted:
            self.count += RelayCount(requests=1, bytes_sent=len(body))
        target = URL(self._placeholders.revealed_url(str(url), host), encoded=True)
        try:
            session = self._direct if url.host in LOOPBACK else self._proxied
            answer = await session.request(
                request.method,
                target,
                headers=headers,
                data=body or None,
                allow_redirects=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # Words by which a request counts as not sent.
            is_unsent = isinstance(error, aiohttp.ClientConnectorError)
            what = "unable to connect: " if is_unsent else ""
            return _no_answer(f"{what}{type(error).__name__}: {error}")
        if is_counted and answer.ok:
            self.count += RelayCount(answered=1)
        async with answer:
            return await self._pass_on(request, answer, is_counted=is_counted)

    async def _pass_on(
        self, request: web.Request, answer: aiohttp.ClientResponse, *, is_counted: bool
    ) -> web.StreamResponse:
        passed = web.StreamResponse(status=answer.status, reason=answer.reason)
        for name, value in _passed(answer.headers):
            passed.headers.add(name, value)
        if answer.content_length is not None:
            passed.content_length = answer.content_length
        await passed.prepare(request)
        try:
            async for data in answer.content.iter_any():
                if is_counted:
                    self.count += RelayCount(bytes_received=len(data))
                await passed.write(data)
            await passed.write_eof()
        except (aiohttp.ClientError, OSError, TimeoutError):
            # The answer breaks off for opencode as it did here.
            if request.transport is not None:
                request.transport.abort()
        return passed


def _session(*, tls: ssl.SSLContext | bool, uses_proxy: bool) -> aiohttp.ClientSession:
    # The clocks of the backend end a request that takes too long.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls, limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S),
        auto_decompress=False,
        trust_env=uses_proxy,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _has_other_key(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    """Whether a header has a long key in which no placeholder was replaced.

    With the key of somebody else, a program inside could send files to an account at the provider.
    """
    return any(
        name.lower() in KEY_HEADERS and len(value.rpartition(" ")[2]) >= LONG and before.get(name) == value
        for name, value in after.items()
    )


def _passed(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return [(name, value) for name, value in headers.items() if name.lower() not in OF_CONNECTION | named]


def _no_answer(reason: str) -> web.Response:
    encoded = base64.b64encode(reason.encode()).decode()
    return web.Response(status=STATUS_REFUSED, headers={REFUSED_HEADER: encoded}, text=reason)


def _process_of(request: web.Request) -> int | None:
    """The process that made the connection (unix(7), SO_PEERCRED); None if the connection is closed."""
    connection = request.transport and request.transport.get_extra_info("socket")
    if connection is None:
        return None
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(found)[0]


def _tls() -> ssl.SSLContext | bool:
    """Trust in what opencode would trust: Mozilla's list, the machine's, and those that variables name."""
    if os.environ.get("NODE_TLS_REJECT_UNAUTHORIZED") == "0":
        return False
    context = ssl.create_default_context(cafile=certifi.where())
    context.load_default_certs()
    for name in ("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"):
        if (path := os.environ.get(name)) and Path(path).is_file():
            context.load_verify_locations(path)
    return context
