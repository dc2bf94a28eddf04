"""POST requests to a warm server: all that a row asks of it.

Two for each row, with up to hundreds in flight at once. For these httpx 0.28 takes much more CPU time than
aiohttp, since its httpcore looks at every connection for each request; all else here is read with httpx.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

# Shorter than the server's own, so that it does not close a connection that is about to be used.
KEPT_S = 5.0


class NoAnswerError(Exception):
    """The server could not be reached, broke off or took too long."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: its HTTP status and its body."""

    status: int
    text: str

    def json(self) -> Any:
        """The body's JSON. Raises ValueError where it is none."""
        return json.loads(self.text)


class Posts:
    """The connections to one server for its POST requests. Made and used on one event loop."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._session = aiohttp.ClientSession(
            url,
            headers={
                "Authorization": aiohttp.encode_basic_auth(user, password),
                "Content-Type": "application/json",
            },
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def post(
        self, path: str, body: Mapping[str, Any] | None, *, directory: str, timeout_s: float | None
    ) -> Answer:
        """The server's answer, whatever its status; ``timeout_s`` None waits for ever.

        ``directory`` is the folder that the request is about. Raises NoAnswerError.
        """
        limit = aiohttp.ClientTimeout(total=timeout_s)
        # As a file, of which aiohttp writes a piece at a time: a prompt may have megabytes.
        data = None if body is None else io.BytesIO(json.dumps(body).encode())
        try:
            sent = self._session.post(path, params={"directory": directory}, data=data, timeout=limit)
            async with sent as response:
                return Answer(response.status, await response.text("utf-8", "replace"))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoAnswerError(f"{type(error).__name__} {error}") from None

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()
