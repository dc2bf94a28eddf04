"""The HTTP client of one warm server: requests, and the stream of its events.

A row asks twice and is told of by a dozen events, with up to hundreds of rows in flight at once. For
that httpx 0.28 and httpx-sse take a multiple of aiohttp's CPU time: its httpcore looks at every
connection for each request.
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
# Shorter than the server's own, so that it does not close a connection that is about to be used.
KEPT_S = 5.0
EVENT_END = b"\n\n"
DATA = b"data:"


class NoAnswerError(Exception):
    """The server could not be reached, broke off or took too long."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response: its HTTP status and its body."""

    status: int
    text: str

    def json(self) -> Any:
        """The body's JSON. Raises ValueError where it is none."""
        return json.loads(self.text)


class Client:
    """The connections to the server at ``url``, for requests about one folder, ``directory``.

    Made and used on one event loop.
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
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def get(self, path: str, *, timeout_s: float = HTTP_LIMIT_S) -> Response:
        """The server's answer, whatever its status.

        Raises NoAnswerError, also where nothing of the answer comes for ``timeout_s``.
        """
        limit = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        return await self._ask("GET", path, None, limit)

    async def post(
        self, path: str, body: Mapping[str, Any] | None, *, timeout_s: float | None = HTTP_LIMIT_S
    ) -> Response:
        """The server's whole answer within ``timeout_s`` (None: for ever), whatever its status.

        Raises NoAnswerError.
        """
        # As a file, of which aiohttp writes a piece at a time: a prompt may have megabytes.
        data = None if body is None else io.BytesIO(json.dumps(body).encode())
        return await self._ask("POST", path, data, aiohttp.ClientTimeout(total=timeout_s))

    async def events(self, path: str = "/event") -> AsyncGenerator[str]:
        """The data of each event of a stream, as it comes. Raises NoAnswerError where the stream breaks off.

        Opencode writes an event as ``data: JSON`` and an empty line, with line feeds (1.15 to 1.18);
        other fields are passed over.
        """
        limit = aiohttp.ClientTimeout(total=None)
        held = bytearray()
        try:
            async with self._session.get(path, params=self._about, timeout=limit) as response:
                if response.status != HTTPStatus.OK:
                    raise NoAnswerError(f"opencode answered HTTP {response.status} for {path}")
                async for piece in response.content.iter_any():
                    # The end of an event may be cut in two; what was looked at is not looked at again.
                    begin = max(0, len(held) - len(EVENT_END) + 1)
                    held += piece
                    while (end := held.find(EVENT_END, begin)) >= 0:
                        data = _data_of(bytes(held[:end]))
                        del held[: end + len(EVENT_END)]
                        begin = 0
                        if data:
                            yield data
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoAnswerError(f"{type(error).__name__} {error}") from None

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()

    @property
    def _about(self) -> dict[str, str]:
        return {"directory": self.directory}

    async def _ask(
        self, method: str, path: str, data: io.BytesIO | None, limit: aiohttp.ClientTimeout
    ) -> Response:
        try:
            sent = self._session.request(method, path, params=self._about, data=data, timeout=limit)
            async with sent as response:
                return Response(response.status, await response.text("utf-8", "replace"))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoAnswerError(f"{type(error).__name__} {error}") from None


def _data_of(event: bytes) -> str:
    lines = (line[len(DATA) :].strip() for line in event.split(b"\n") if line.startswith(DATA))
    return b"\n".join(lines).decode("utf-8", "replace")
