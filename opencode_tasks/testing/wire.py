"""Responses of the scripted provider in the wire format of OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from starlette.responses import JSONResponse, Response, StreamingResponse

from opencode_tasks.testing.script import Call, Reply

if TYPE_CHECKING:
    from starlette.requests import Request

HANG_LIMIT_S = 3600.0
HANG_CHECK_INTERVAL_S = 0.1


class _CloseConnectionError(Exception):
    """Raised inside of a response so that the server closes the connection."""


async def build_response(call: Call, reply: Reply, request: Request) -> Response:
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
    text = call.prompt if reply.text is None else reply.text
    usage = _reported_usage(call, reply, text)
    if not call.body.get("stream"):
        _record_usage(call, usage)
        return JSONResponse(_completion(call, reply, text, usage))
    return StreamingResponse(_stream(call, reply, text, usage), media_type="text/event-stream")


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


def _reported_usage(call: Call, reply: Reply, text: str) -> Mapping[str, Any] | None:
    if not reply.reports_usage:
        return None
    return _usage(call, reply, text) if reply.usage is None else reply.usage


def _usage(call: Call, reply: Reply, text: str) -> dict[str, Any]:
    prompt_tokens = reply.input_tokens if reply.input_tokens is not None else 10 + len(call.prompt) // 4
    output_tokens = reply.output_tokens
    if output_tokens is None:
        output_tokens = reply.reasoning_tokens + max(1, len(text) // 4)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cache_read_tokens},
        "completion_tokens_details": {"reasoning_tokens": reply.reasoning_tokens},
    }


def _record_usage(call: Call, usage: Mapping[str, Any] | None) -> None:
    call.ended = True
    call.input_tokens = _count(usage, "prompt_tokens")
    call.output_tokens = _count(usage, "completion_tokens")
    call.cache_read_tokens = _count(usage, "prompt_tokens_details", "cached_tokens")
    call.reasoning_tokens = _count(usage, "completion_tokens_details", "reasoning_tokens")


def _count(value: Any, *names: str) -> int:
    """The count at a path of names; 0 if there is none."""
    for name in names:
        value = cast("Mapping[str, Any]", value).get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) else 0


def _tool_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(dict(arguments))},
        }
        for index, (name, arguments) in enumerate(reply.tool_calls)
    ]


def _finish_reason(reply: Reply) -> str:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def _completion(call: Call, reply: Reply, text: str, usage: Mapping[str, Any] | None) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if reply.tool_calls:
        message["tool_calls"] = _tool_calls(reply)
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(reply)}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "model": call.model}
    return {**head, "choices": [choice], **_usage_field(usage)}


def _usage_field(usage: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if usage is None else {"usage": dict(usage)}


async def _stream(
    call: Call, reply: Reply, text: str, usage: Mapping[str, Any] | None
) -> AsyncIterator[bytes]:
    def event(delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": call.model}
        chunk = {**head, "created": int(call.at)}
        return b"data: " + json.dumps({**chunk, "choices": [choice], **more}).encode() + b"\n\n"

    yield event({"role": "assistant", "content": ""})
    if reply.reasoning_text:
        yield event({"reasoning_content": reply.reasoning_text})
    if not reply.tool_calls or reply.text is not None:
        for index, chunk_text in enumerate(_split(text, reply.chunks)):
            if index:
                await asyncio.sleep(reply.chunk_delay_s)
            if reply.cut_after is not None and index >= reply.cut_after:
                raise _CloseConnectionError
            yield event({"content": chunk_text})
    if reply.cut_after is not None:
        raise _CloseConnectionError
    if reply.tool_calls:
        yield event({"tool_calls": _tool_calls(reply)})
    _record_usage(call, usage)
    yield event({}, _finish_reason(reply), **_usage_field(usage))
    yield b"data: [DONE]\n\n"


def _split(text: str, count: int) -> list[str]:
    size = max(1, -(-len(text) // max(1, count)))
    return [text[start : start + size] for start in range(0, len(text), size)]
