"""HTTP responses of the scripted provider. All wires share this code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response, StreamingResponse

from opencode_tasks.testing.script import Call, Reply
from opencode_tasks.testing.wires.turn import Shape, Stream, Tokens, Turn

if TYPE_CHECKING:
    from starlette.requests import Request

HANG_LIMIT_S = 3600.0
HANG_CHECK_INTERVAL_S = 0.1
KEEP_ALIVE_INTERVAL_S = 1.0


class _CloseConnectionError(Exception):
    """Raised inside of a response so that the server closes the connection."""


async def build_response(call: Call, reply: Reply, request: Request, shape: Shape) -> Response:
    """Return the response for a reply and record in ``call`` what it reports."""
    if reply.hang:
        await _wait_for_disconnect(request)
        call.status = 499
        return Response(status_code=499)
    await asyncio.sleep(reply.delay_s)
    if reply.reset:
        return StreamingResponse(_close_connection(), status_code=200, headers={"content-length": "10"})
    call.status = reply.status
    if reply.status != 200:
        call.ended = True
        return _error_response(reply)
    headers = dict(reply.headers)
    if reply.raw is not None:
        call.ended = True
        return Response(reply.raw, headers={"content-type": reply.content_type, **headers})
    text = _text(call, reply)
    turn = Turn(
        model=call.model, created=int(call.at), reply=reply, tokens=_count_tokens(call, reply, text or "")
    )
    if shape.document is not None and not call.body.get("stream"):
        _record_usage(call, turn)
        return JSONResponse(shape.document(turn, text or ""), headers=headers)
    parts = _slowed(_stream(call, turn, text, shape), reply)
    return StreamingResponse(parts, media_type=shape.media_type, headers=headers)


def _error_response(reply: Reply) -> Response:
    body = json.dumps(dict(reply.body)) if isinstance(reply.body, Mapping) else reply.body
    media_type = None if "content-type" in {h.lower() for h in reply.headers} else "application/json"
    return Response(body, status_code=reply.status, headers=dict(reply.headers), media_type=media_type)


async def _wait_for_disconnect(request: Request) -> None:
    for _ in range(int(HANG_LIMIT_S / HANG_CHECK_INTERVAL_S)):
        if await request.is_disconnected():
            return
        await asyncio.sleep(HANG_CHECK_INTERVAL_S)


async def _close_connection() -> AsyncIterator[bytes]:
    raise _CloseConnectionError
    yield b""


def _text(call: Call, reply: Reply) -> str | None:
    """Return the text of the answer; None is no text."""
    if reply.text is not None:
        return reply.text
    has_other_content = reply.tool_calls or reply.stream_error is not None or reply.block_reason is not None
    return None if has_other_content else call.prompt


def _count_tokens(call: Call, reply: Reply, text: str) -> Tokens:
    estimate = 10 + len(call.prompt) // 4
    output = reply.output_tokens
    return Tokens(
        input=estimate if reply.input_tokens is None else reply.input_tokens,
        cache_read=reply.cache_read_tokens,
        cache_write=reply.cache_write_tokens,
        output=reply.reasoning_tokens + max(1, len(text) // 4) if output is None else output,
        reasoning=reply.reasoning_tokens,
    )


def _record_usage(call: Call, turn: Turn) -> None:
    call.ended = True
    if not turn.reply.reports_usage or turn.reply.usage is not None:
        return
    call.input_tokens = turn.tokens.input
    call.output_tokens = turn.tokens.output
    call.cache_read_tokens = turn.tokens.cache_read
    call.cache_write_tokens = turn.tokens.cache_write
    call.reasoning_tokens = turn.tokens.reasoning


async def _stream(call: Call, turn: Turn, text: str | None, shape: Shape) -> AsyncIterator[bytes]:
    reply, stream = turn.reply, shape.stream(turn)
    async for comment in _keep_alive(reply.keep_alive_s, shape.keep_alive):
        yield comment
    yield stream.start()
    if reply.reasoning_text:
        yield stream.reasoning(reply.reasoning_text)
    async for part in _text_parts(stream, reply, text or ""):
        yield part
    if reply.stream_error is not None:
        yield stream.error(reply.stream_error)
        return
    for part in _tool_calls(stream, reply):
        yield part
    yield stream.close()
    if reply.has_end:
        _record_usage(call, turn)
        yield stream.end()


async def _slowed(parts: AsyncIterator[bytes], reply: Reply) -> AsyncIterator[bytes]:
    """Yield the parts as ``byte_delay_s`` and ``stop_after_bytes`` ask."""
    left = reply.stop_after_bytes
    async for part in parts:
        whole = part if left is None else part[:left]
        for piece in _pieces(whole, reply):
            yield piece
            await asyncio.sleep(reply.byte_delay_s)
        if left is not None:
            left -= len(whole)
            if left <= 0:
                # The server cancels this when the client closes the connection.
                await asyncio.sleep(HANG_LIMIT_S)


def _pieces(part: bytes, reply: Reply) -> list[bytes]:
    if not reply.byte_delay_s:
        return [part] if part else []
    return [part[index : index + 1] for index in range(len(part))]


async def _keep_alive(seconds: float, comment: bytes) -> AsyncIterator[bytes]:
    while seconds > 0:
        yield comment
        await asyncio.sleep(min(seconds, KEEP_ALIVE_INTERVAL_S))
        seconds -= KEEP_ALIVE_INTERVAL_S


async def _text_parts(stream: Stream, reply: Reply, text: str) -> AsyncIterator[bytes]:
    for index, part in enumerate(_split(text, reply.chunks)):
        if index:
            await asyncio.sleep(reply.chunk_delay_s)
        if reply.cut_after is not None and index >= reply.cut_after:
            raise _CloseConnectionError
        yield stream.text(part)
    if reply.cut_after is not None:
        raise _CloseConnectionError


def _tool_calls(stream: Stream, reply: Reply) -> Iterator[bytes]:
    for index, (name, arguments) in enumerate(reply.tool_calls):
        yield stream.tool_call(index, name, arguments)


def _split(text: str, count: int) -> list[str]:
    size = max(1, -(-len(text) // max(1, count)))
    return [text[start : start + size] for start in range(0, len(text), size)]
