"""The scripted provider's answers on each wire, as its server sends them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import httpx
import pytest

from opencode_tasks.testing import Call, Reply, ScriptedProvider, Wire
from opencode_tasks.testing.wires import WIRES
from opencode_tasks.testing.wires.event_stream import MEDIA_TYPE

SYSTEM, PROMPT = "Be brief.", "hello there"
CHAT: dict[str, Any] = {
    "stream": True,
    "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}],
}
INPUT: dict[str, Any] = {
    "input": [
        {"role": "developer", "content": SYSTEM},
        {"role": "user", "content": [{"type": "input_text", "text": PROMPT}]},
    ]
}
BODIES: Mapping[Wire, dict[str, Any]] = {
    "responses": INPUT,
    "azure": INPUT,
    "anthropic": {
        "system": [{"type": "text", "text": SYSTEM}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "c"}]},
        ],
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": SYSTEM}]},
        "contents": [
            {"role": "user", "parts": [{"text": PROMPT}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "b", "response": {}}}]},
        ],
    },
    "bedrock": {
        "system": [{"text": SYSTEM}],
        "messages": [
            {"role": "user", "content": [{"text": PROMPT}]},
            {"role": "user", "content": [{"toolResult": {"toolUseId": "a", "content": []}}]},
        ],
    },
}
ALL_WIRES: tuple[Wire, ...] = get_args(Wire)


@dataclass(frozen=True, slots=True)
class Frame:
    """An event: its name or kind, "" without one, and its data."""

    kind: str
    data: Any


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        yield running


def send(provider: ScriptedProvider, wire: Wire, reply: Reply) -> tuple[httpx.Response, Call]:
    """Send one request on a wire, to the first route that it has."""
    provider._rules.clear()
    provider.on("", reply)
    config = provider.opencode_config(wire=wire)["provider"]["fake"]
    path = next(iter(WIRES[wire].routes)).replace("{model}", "echo")
    url = f"{config['options']['baseURL']}{path}"
    body = {"model": "echo", **BODIES.get(wire, CHAT)}
    response = httpx.post(url, json=body, timeout=10)
    return response, provider.calls[-1]


def frames(response: httpx.Response) -> list[Frame]:
    if response.headers["content-type"] == MEDIA_TYPE:
        return list(event_stream_frames(response.content))
    assert response.headers["content-type"].startswith("text/event-stream")
    return [frame for block in response.text.split("\n\n") if (frame := sse_frame(block))]


def sse_frame(block: str) -> Frame | None:
    fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
    if "data" not in fields:
        return None
    data = fields["data"]
    return Frame(fields.get("event", ""), data if data == "[DONE]" else json.loads(data))


def event_stream_frames(content: bytes) -> Iterator[Frame]:
    """Read messages of the AWS event stream encoding and check both of their sums."""
    while content:
        total, head, prelude_sum = struct.unpack("!III", content[:12])
        message, content = content[:total], content[total:]
        assert prelude_sum == zlib.crc32(message[:8])
        assert struct.unpack("!I", message[-4:])[0] == zlib.crc32(message[:-4])
        headers = dict(event_stream_headers(message[12 : 12 + head]))
        kind = headers.get(":event-type") or headers[":exception-type"]
        yield Frame(kind, json.loads(message[12 + head : -4]))


def event_stream_headers(content: bytes) -> Iterator[tuple[str, str]]:
    while content:
        end = 1 + content[0]
        name, kind = content[1:end].decode(), content[end]
        (length,) = struct.unpack("!H", content[end + 1 : end + 3])
        value, content = content[end + 3 : end + 3 + length].decode(), content[end + 3 + length :]
        assert kind == 7
        yield name, value


@pytest.mark.parametrize("wire", ALL_WIRES)
def test_a_request_is_read(provider: ScriptedProvider, wire: Wire) -> None:
    response, call = send(provider, wire, Reply())
    assert (call.wire, call.model, call.prompt, call.system) == (wire, "echo", PROMPT, SYSTEM)
    assert response.status_code == call.status == 200
    assert call.ended
    assert call.input_tokens > 0


ERRORS: Mapping[Wire, Frame] = {
    "responses": Frame("response.failed", {}),
    "azure": Frame("response.failed", {}),
    "anthropic": Frame("error", {"type": "error"}),
    "bedrock": Frame("throttlingException", {"message": "slow down"}),
}


@pytest.mark.parametrize("wire", ALL_WIRES)
def test_an_error_in_a_stream_follows_the_text(provider: ScriptedProvider, wire: Wire) -> None:
    kind = {"type": "throttlingException"} if wire == "bedrock" else {"code": "rate_limit_exceeded"}
    error = {**kind, "message": "slow down"}
    response, call = send(provider, wire, Reply(text="a part", stream_error=error))
    *before, last = frames(response)
    assert response.status_code == 200
    assert "a part" in str(before)
    expected = ERRORS.get(wire, Frame("", {"error": error}))
    assert last.kind == expected.kind
    assert expected.data.items() <= last.data.items()
    assert "slow down" in str(last.data)
    assert not call.ended
    if wire == "openrouter":
        assert last.data["choices"][0]["finish_reason"] == "error"


def test_an_error_of_responses_with_a_type_is_an_event(provider: ScriptedProvider) -> None:
    error = {"type": "server_error", "code": "server_error", "message": "down"}
    response, _ = send(provider, "responses", Reply(stream_error=error))
    last = frames(response)[-1]
    assert (last.kind, last.data["error"]) == ("error", error)
    assert "output_text" not in response.text


ENDS: Mapping[Wire, tuple[str, ...]] = {
    "responses": ("response.completed",),
    "azure": ("response.completed",),
    "anthropic": ("message_delta", "message_stop"),
    "gemini": ("finishReason",),
    "bedrock": ("messageStop", "metadata"),
}


@pytest.mark.parametrize("wire", ALL_WIRES)
def test_a_stream_without_its_end(provider: ScriptedProvider, wire: Wire) -> None:
    marks = ENDS.get(wire, ('"finish_reason": "stop"', "[DONE]"))
    whole, call = send(provider, wire, Reply(text="whole"))
    assert all(mark in whole.content.decode("latin1") for mark in marks)
    assert call.ended
    endless, call = send(provider, wire, Reply(text="whole", has_end=False))
    assert "whole" in endless.content.decode("latin1")
    assert not any(mark in endless.content.decode("latin1") for mark in marks)
    assert not call.ended
    assert call.input_tokens == 0


USAGE_KEYS = {"usage", "usageMetadata", "x_groq"}


def keys_with_values(value: Any) -> set[str]:
    """All keys in a JSON value, at any depth, whose value is not null."""
    if isinstance(value, list):
        return set[str]().union(*map(keys_with_values, value))
    if not isinstance(value, dict):
        return set()
    own = {key for key, inner in value.items() if inner is not None}
    return own.union(*map(keys_with_values, value.values()))


@pytest.mark.parametrize("wire", ALL_WIRES)
def test_the_usage_is_none_or_the_given_object(provider: ScriptedProvider, wire: Wire) -> None:
    response, call = send(provider, wire, Reply(reports_usage=False))
    assert not USAGE_KEYS & keys_with_values([frame.data for frame in frames(response)])
    assert (call.ended, call.input_tokens, call.output_tokens) == (True, 0, 0)
    response, call = send(provider, wire, Reply(usage={"strange": "9"}))
    assert USAGE_KEYS & keys_with_values([frame.data for frame in frames(response)])
    assert "{'strange': '9'}" in str([frame.data for frame in frames(response)])
    assert call.input_tokens == 0


@pytest.mark.parametrize("wire", ALL_WIRES)
def test_raw_bytes_are_the_whole_response(provider: ScriptedProvider, wire: Wire) -> None:
    page = b"<html>Sign in \xff</html>"
    response, call = send(provider, wire, Reply(raw=page, content_type="text/html"))
    assert (response.status_code, response.content) == (200, page)
    assert response.headers["content-type"] == "text/html"
    assert call.status == 200


@pytest.mark.parametrize("wire", ALL_WIRES)
def test_comments_precede_a_late_answer(provider: ScriptedProvider, wire: Wire) -> None:
    response, _ = send(provider, wire, Reply(text="late", keep_alive_s=0.05, headers={"x-request-id": "r"}))
    assert response.headers["x-request-id"] == "r"
    assert response.text.startswith(": keep-alive\n\n") is (wire != "bedrock")
    assert "late" in str(frames(response))


@pytest.mark.parametrize("wire", ALL_WIRES)
def test_a_connection_is_closed_in_the_middle(provider: ScriptedProvider, wire: Wire) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        send(provider, wire, Reply(text="one two", chunks=2, cut_after=1))
    assert not provider.calls[-1].ended


def test_blocks_of_anthropic_are_numbered_and_closed(provider: ScriptedProvider) -> None:
    reply = Reply(text="ab", chunks=2, reasoning_text="hm", tool_calls=[("look", {"at": 1})])
    response, _ = send(provider, "anthropic", reply)
    events = frames(response)
    assert all(frame.kind == frame.data["type"] for frame in events)
    blocks = [(frame.kind.removeprefix("content_block_"), frame.data["index"]) for frame in events[1:-2]]
    expected = [("start", 0), ("delta", 0), ("delta", 0), ("stop", 0)]
    expected += [("start", 1), ("delta", 1), ("delta", 1), ("stop", 1)]
    expected += [("start", 2), ("delta", 2), ("stop", 2)]
    assert blocks == expected
    assert events[-2].data["delta"]["stop_reason"] == "tool_use"


def test_events_of_responses_are_numbered_and_end_with_the_output(provider: ScriptedProvider) -> None:
    reply = Reply(text="ab", chunks=2, reasoning_text="hm", tool_calls=[("look", {"at": 1})])
    response, _ = send(provider, "responses", reply)
    events = frames(response)
    assert [frame.data["sequence_number"] for frame in events] == list(range(len(events)))
    output = events[-1].data["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call"]
    assert output[0]["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert output[1]["content"][0]["text"] == "ab"
    assert json.loads(output[2]["arguments"]) == {"at": 1}
    added = [frame.data["output_index"] for frame in events if frame.kind == "response.output_item.added"]
    assert added == [0, 1, 2]


def test_an_answer_without_a_stream_has_calls_and_usage(provider: ScriptedProvider) -> None:
    provider._rules.clear()
    provider.on("", Reply(tool_calls=[("look", {"at": 1})], output_tokens=7))
    response = httpx.post(f"{provider.base_url}/chat/completions", json={**CHAT, "stream": False})
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at": 1}'}
    assert response.json()["usage"]["completion_tokens"] == 7


def test_an_empty_finish_reason_is_sent(provider: ScriptedProvider) -> None:
    response, _ = send(provider, "chat", Reply(finish_reason=""))
    assert '"finish_reason": ""' in response.text
