"""HTTP client of one opencode server: requests, and the stream of its events.

Each row makes two requests and receives about a dozen events, with hundreds of rows in flight. httpx
0.28 and httpx-sse need a multiple of aiohttp's CPU time for that: httpcore looks at every connection
for each request.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp

USER = "opencode"
HTTP_LIMIT_S = 30.0
# Shorter than the server's keep-alive time, so that the server never closes a connection first.
KEEP_ALIVE_S = 5.0
EVENT_END = b"\n\n"
DATA = b"data:"


class NoAnswerError(Exception):
    """The server cannot be reached, closed the connection or took too long."""


@dataclass(frozen=True, slots=True)
class Response:
    """HTTP status and body of a response."""

    status: int
    text: str

    def json(self) -> Any:
        """The body as JSON. Raises ValueError if it is not JSON."""
        return json.loads(self.text)


class Client:
    """Connections to the opencode server at ``url``, for requests about one directory.

    A client is made and used on one event loop.
    """

    def __init__(self, url: str, password: str, directory: str) -> None:
        self.url = url
        self.directory = directory
        self._session = aiohttp.ClientSession(
            url,
            headers={
                "Authorization": aiohttp.encode_basic_auth(USER, password),
                "Content-Type": "application/json",
            },
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def get(self, path: str, *, timeout_s: float = HTTP_LIMIT_S) -> Response:
        """GET a route; the response, whatever its status.

        Raises NoAnswerError, also if no byte of the response arrives for ``timeout_s`` seconds.
        """
        limit = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        return await self._request("GET", path, None, limit)

    async def post(
        self, path: str, body: Mapping[str, Any] | None, *, timeout_s: float | None = HTTP_LIMIT_S
    ) -> Response:
        """POST to a route; the response, whatever its status.

        Raises NoAnswerError, also if the response is not complete within ``timeout_s`` seconds. None sets
        no limit.
        """
        # aiohttp writes a file object piece by piece: a prompt can have megabytes.
        data = None if body is None else io.BytesIO(json.dumps(body).encode())
        return await self._request("POST", path, data, aiohttp.ClientTimeout(total=timeout_s))

    async def events(self, path: str = "/event") -> AsyncGenerator[str]:
        """Data of each event of a stream, as the events arrive.

        Opencode writes an event as ``data: JSON`` and an empty line, with line feeds (1.15 to 1.18);
        other fields are ignored. Raises NoAnswerError if the stream breaks.
        """
        limit = aiohttp.ClientTimeout(total=None)
        buffer = bytearray()
        try:
            async with self._session.get(path, params=self._params, timeout=limit) as response:
                if response.status != HTTPStatus.OK:
                    raise NoAnswerError(f"opencode answered HTTP {response.status} for {path}")
                async for piece in response.content.iter_any():
                    # The end mark can be split over two pieces; bytes already searched are skipped.
                    begin = max(0, len(buffer) - len(EVENT_END) + 1)
                    buffer += piece
                    while (end := buffer.find(EVENT_END, begin)) >= 0:
                        data = _data_of(bytes(buffer[:end]))
                        del buffer[: end + len(EVENT_END)]
                        begin = 0
                        if data:
                            yield data
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoAnswerError(f"{type(error).__name__} {error}") from None

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()

    @property
    def _params(self) -> dict[str, str]:
        return {"directory": self.directory}

    async def _request(
        self, method: str, path: str, data: io.BytesIO | None, limit: aiohttp.ClientTimeout
    ) -> Response:
        try:
            request = self._session.request(method, path, params=self._params, data=data, timeout=limit)
            async with request as response:
                return Response(response.status, await response.text("utf-8", "replace"))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoAnswerError(f"{type(error).__name__} {error}") from None


def _data_of(event: bytes) -> str:
    lines = (line[len(DATA) :].strip() for line in event.split(b"\n") if line.startswith(DATA))
    return b"\n".join(lines).decode("utf-8", "replace")
