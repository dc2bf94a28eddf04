"""Relay: the way of requests of a sandboxed opencode to its provider, through a Unix socket.

The sandbox has no network. The plugin sends each request to the relay, with its URL in a header. The relay
knows which hosts it may be for, puts the keys in place of their placeholders, and counts. Only the first
process that connects is served: opencode, which asks the model before it runs any tool. The connection of
another process is closed before anything is read from it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import shutil
import socket
import ssl
import struct
import tempfile
from collections.abc import AsyncGenerator, Iterable, Mapping
from pathlib import Path
from typing import Self
from urllib.parse import unquote

import aiohttp
import certifi
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from opencode_tasks.domain.sandbox import RelayCount
from opencode_tasks.sandbox.placeholders import Placeholders, parameters
from opencode_tasks.sandbox.view import TEMP
from opencode_tasks.system.loopback import LOOPBACK

# Path of the socket inside of a sandbox.
INSIDE = Path("/run/opencode-tasks/relay.sock")
TARGET_HEADER = "x-opencode-tasks-target"
# The plugin reads why a request got no answer from this header, in base64.
REFUSED_HEADER = "x-opencode-tasks-relay"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
# Those by which providers answer prompts and list their models. Others would change what an account stores.
PROVIDER_METHODS = frozenset(("GET", "HEAD", "POST"))
# Of a request and of an answer. Providers take less.
MAX_BODY_BYTES = 256_000_000
# Of opencode: each holds two file descriptors of this process. It has one for each model call in flight,
# and one for each MCP server.
MAX_CONNECTIONS = 64
# An idle connection is closed after this time.
IDLE_LIMIT_S = 30.0
# After a connection that is not served: a program that opens one after the other costs little time here.
REFUSAL_PAUSE_S = 0.005
# After a connection that cannot be accepted, as without a free file descriptor. It stays in the queue.
ACCEPT_PAUSE_S = 0.2
CONNECT_LIMIT_S = 60.0
TOO_LARGE = f"has more than {MAX_BODY_BYTES:,} bytes"
STATUS_REFUSED = 599
# Of the folder of the socket: the path of a Unix socket has at most 107 bytes (unix(7)).
MAX_FOLDER_BYTES = 90
# Headers of one connection (RFC 9110, section 7.6.1), and those that aiohttp sets itself.
OF_CONNECTION = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("expect", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length", TARGET_HEADER),
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
        self._listener = socket.socket(socket.AF_UNIX)
        # A request that opencode gives up is given up here too. Compressed bodies are passed on as they are.
        self._server = web.Server(
            self._handle,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            keepalive_timeout=IDLE_LIMIT_S,
            logger=_logger(),
        )

    async def __aenter__(self) -> Self:
        """Listen."""
        self.socket.unlink(missing_ok=True)
        self._listener.bind(str(self.socket))
        self._listener.listen()
        self._listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, and remove the socket."""
        self._accepting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._accepting
        self._listener.close()
        self._server.pre_shutdown()
        await self._server.shutdown(0.0)
        for session in (self._direct, self._proxied):
            await session.close()
        self.socket.unlink(missing_ok=True)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
                reason = self._why_not_served(connection)
                if reason is None:
                    await loop.connect_accepted_socket(self._server, connection)
                    continue
            except OSError:
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            with contextlib.suppress(OSError):
                connection.send(_refusal_bytes(reason))
            connection.close()
            await asyncio.sleep(REFUSAL_PAUSE_S)

    def _why_not_served(self, connection: socket.socket) -> str | None:
        process = _process_of(connection)
        if self._client is None:
            self._client = process
        if process != self._client:
            return self._refused("a program of the workspace", "only opencode itself may ask the model")
        if len(self._server.connections) >= MAX_CONNECTIONS:
            what = f"opencode by more than {MAX_CONNECTIONS} connections"
            return self._refused(what, f"opencode has more than {MAX_CONNECTIONS} connections")
        return None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            url = URL(request.headers.get(TARGET_HEADER, ""), encoded=True)
            host = f"{url.host}:{url.port}"
        except ValueError:
            return self._refuse("a URL that is none", "the URL of the request cannot be read")
        if url.scheme not in ("http", "https") or host not in self._hosts:
            return self._refuse(host, f"the sandbox lets no request to {host} pass (--network, --allow-host)")
        if request.method not in (PROVIDER_METHODS if host in self._counted else METHODS):
            return self._refuse(host, f"the sandbox lets no request {request.method} to {host} pass")
        if not self._takes_other_keys and self._has_other_key(request, url):
            return self._refuse(host, f"the request to {host} has a key that is not one of this run")
        if (request.content_length or 0) > MAX_BODY_BYTES:
            return self._refuse(host, f"the request to {host} {TOO_LARGE}")
        return await self._send(request, url, host)

    def _has_other_key(self, request: web.BaseRequest, url: URL) -> bool:
        """Whether the request has a credential that is not a placeholder.

        With the key of somebody else, a program inside could send files to an account at the provider.
        """
        of_url = ("authorization", unquote(url.raw_authority.rpartition("@")[0]))
        named = [*_passed(request.headers), of_url, *parameters(url.raw_query_string)]
        return any(self._placeholders.has_other(name, value) for name, value in named)

    def _refused(self, what: str, reason: str) -> str:
        self.count += RelayCount(refused=1)
        self.refused.add(what)
        return reason

    def _refuse(self, what: str, reason: str) -> web.Response:
        return _no_answer(self._refused(what, reason))

    async def _send(self, request: web.BaseRequest, url: URL, host: str) -> web.StreamResponse:
        reveal = self._placeholders.revealed
        headers = [(name, reveal(name, value, host)) for name, value in _passed(request.headers)]
        if request.content_length is not None:
            headers.append(("Content-Length", str(request.content_length)))
        is_counted = host in self._counted
        if is_counted:
            self.count += RelayCount(requests=1)
        target = URL(self._placeholders.revealed_url(str(url), host), encoded=True)
        try:
            session = self._direct if url.host in LOOPBACK else self._proxied
            answer = await session.request(
                request.method,
                target,
                headers=headers,
                data=self._body(request, host) if request.body_exists else None,
                allow_redirects=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # Words by which a request counts as not sent.
            is_unsent = isinstance(error, aiohttp.ClientConnectorError)
            what = "unable to connect: " if is_unsent else ""
            return _no_answer(f"{what}{type(error).__name__}: {error}")
        # Other requests have no answer that a provider charges.
        if is_counted and answer.ok and request.method == "POST":
            self.count += RelayCount(answered=1)
        async with answer:
            return await self._pass_on(request, answer, host, is_counted=is_counted)

    async def _body(self, request: web.BaseRequest, host: str) -> AsyncGenerator[bytes]:
        """The body of a request as it comes. Raises ValueError if it is too large."""
        size_bytes = 0
        async for data in request.content.iter_any():
            size_bytes += len(data)
            if size_bytes > MAX_BODY_BYTES:
                raise ValueError(self._refused(host, f"the request to {host} {TOO_LARGE}"))
            if host in self._counted:
                self.count += RelayCount(bytes_sent=len(data))
            yield data

    async def _pass_on(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, host: str, *, is_counted: bool
    ) -> web.StreamResponse:
        passed = web.StreamResponse(status=answer.status, reason=answer.reason)
        for name, value in _passed(answer.headers):
            passed.headers.add(name, value)
        if answer.content_length is not None:
            passed.content_length = answer.content_length
        await passed.prepare(request)
        size_bytes = 0
        try:
            async for data in answer.content.iter_any():
                size_bytes += len(data)
                if is_counted:
                    self.count += RelayCount(bytes_received=len(data))
                if size_bytes > MAX_BODY_BYTES:
                    self._refused(f"{host} (its answer {TOO_LARGE})", "")
                    _break_off(request)
                    return passed
                await passed.write(data)
            await passed.write_eof()
        except (aiohttp.ClientError, OSError, TimeoutError):
            _break_off(request)
        return passed


def _break_off(request: web.BaseRequest) -> None:
    """End an answer for opencode as it ended here."""
    if request.transport is not None:
        request.transport.abort()


def _session(*, tls: ssl.SSLContext | bool, uses_proxy: bool) -> aiohttp.ClientSession:
    # The clocks of the backend end a request that takes too long.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls, limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S),
        auto_decompress=False,
        trust_env=uses_proxy,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _passed(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return [(name, value) for name, value in headers.items() if name.lower() not in OF_CONNECTION | named]


def _no_answer(reason: str) -> web.Response:
    return web.Response(status=STATUS_REFUSED, headers={REFUSED_HEADER: _encoded(reason)}, text=reason)


def _refusal_bytes(reason: str) -> bytes:
    """The whole answer to a connection from which nothing is read."""
    lines = (
        f"HTTP/1.1 {STATUS_REFUSED} Refused",
        f"{REFUSED_HEADER}: {_encoded(reason)}",
        "Content-Length: 0",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode()


def _encoded(reason: str) -> str:
    return base64.b64encode(reason.encode()).decode()


def _process_of(connection: socket.socket) -> int:
    """The process that made the connection (unix(7), SO_PEERCRED)."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(found)[0]


def _logger() -> logging.Logger:
    """Logger of faults of the relay. A request that is not HTTP is refused without a line in the log."""

    def is_own(record: logging.LogRecord) -> bool:
        return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)

    logger = logging.getLogger(__name__)
    if not logger.filters:
        logger.addFilter(is_own)
    return logger


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
