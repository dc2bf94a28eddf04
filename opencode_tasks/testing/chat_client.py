"""A small client of the wire ``chat``: the chunks of one answer, or the failure that the provider sent."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator, Mapping
from http import HTTPStatus
from typing import Any

import httpx

PREFIX = "data: "
END = "[DONE]"
LOST = "The socket connection was closed unexpectedly"


class AnswerFailedError(Exception):
    """A failed answer. ``error`` is opencode's structured error for it, as the plugin writes it."""

    def __init__(
        self,
        *,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: str = "",
        reason: str = "",
        in_stream: bool = False,
    ) -> None:
        super().__init__(reason or body)
        upstream = {
            "x-upstream-status": str(status),
            "x-upstream-headers": _encoded(json.dumps(dict(headers or {}))),
            "x-upstream-body": _encoded(body),
            "x-upstream-reason": _encoded(reason),
            "x-upstream-at": str(int(time.time() * 1000)),
            "x-upstream-in-stream": "1" if in_stream else "0",
        }
        data = {"message": reason or body, "statusCode": 400, "responseHeaders": upstream}
        self.error: Mapping[str, Any] = {"name": "APIError", "data": data}


async def chunks(
    client: httpx.AsyncClient, url: str, body: Mapping[str, Any], headers: Mapping[str, str]
) -> AsyncGenerator[Mapping[str, Any] | None]:
    """Send a request and yield the chunks of its answer; a comment, which has no content, is None.

    Raises:
        AnswerFailedError: The provider refused the request, sent an error, or the connection failed.
    """
    has_answer = False
    try:
        async with client.stream("POST", url, json=dict(body), headers=dict(headers)) as response:
            if response.status_code != HTTPStatus.OK:
                text = (await response.aread()).decode(errors="replace")
                raise AnswerFailedError(
                    status=response.status_code, headers=dict(response.headers), body=text
                )
            has_answer = True
            async for line in response.aiter_lines():
                if line.startswith(PREFIX) and line != PREFIX + END:
                    yield _chunk(line.removeprefix(PREFIX))
                elif line.startswith(":"):
                    yield None
    except httpx.ConnectError as error:
        raise AnswerFailedError(status=0, reason=f"Unable to connect: {error}") from error
    except httpx.TransportError as error:
        raise AnswerFailedError(status=0, reason=LOST, in_stream=has_answer) from error


def _chunk(text: str) -> Mapping[str, Any]:
    chunk: Mapping[str, Any] = json.loads(text)
    if "error" in chunk:
        raise AnswerFailedError(status=HTTPStatus.OK, body=text, in_stream=True)
    return chunk


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
