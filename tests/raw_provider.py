"""A loopback provider that answers each model with fixed bytes, on the wires of three SDKs."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

SDKS = {
    "compatible": "@ai-sdk/openai-compatible",
    "router": "@openrouter/ai-sdk-provider",
    "responses": "@ai-sdk/openai",
    "gemini": "@ai-sdk/google",
    "claude": "@ai-sdk/anthropic",
}
PRICED: dict[str, Any] = {
    "cost": {"input": 1.0, "output": 2.0},
    "limit": {"context": 100_000, "output": 4096},
}
ANSWER = "the whole answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """The answer of one model: status 200, this content type and this body."""

    wire: str
    body: str
    content_type: str = "text/event-stream"


def event(data: Mapping[str, Any]) -> str:
    """A server-sent event; Anthropic's have their type as a name too."""
    name = f"event: {data['type']}\n" if "type" in data else ""
    return f"{name}data: {json.dumps(data)}\n\n"


def openai(finish: str | None = None, *, text: str = ANSWER, done: bool = True) -> str:
    """A stream of chat completions: a text, a finish reason with the usage, the end mark."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1}
    usage = {"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 50}
    delta = {"role": "assistant", "content": text}
    body = event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    if not done:
        return body
    end = {"index": 0, "delta": {}, "finish_reason": finish}
    return body + event({**head, "choices": [end], "usage": usage}) + "data: [DONE]\n\n"


def cumulative(counts: Sequence[int]) -> str:
    """A stream of chat completions in which each chunk has the usage up to it."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1}
    chunks: list[dict[str, Any]] = [
        {
            **head,
            "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}],
            "usage": {"prompt_tokens": 40, "completion_tokens": count, "total_tokens": 40 + count},
        }
        for word, count in zip(ANSWER.split(" "), counts, strict=True)
    ]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None})
    return "".join(event(chunk) for chunk in chunks) + "data: [DONE]\n\n"


def chat(*deltas: Any, **more: Any) -> str:
    """A stream of chat completions with these deltas; ``more`` is in each event, a ``usage`` in the last."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1}
    usage = more.pop("usage", {"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 50})
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    chunks = [event({**head, "choices": [choice], **more}) for choice in choices]
    end = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage, **more}
    return "".join(chunks) + event(end) + "data: [DONE]\n\n"


def failed_response() -> str:
    """A stream of OpenAI's Responses that fails, with the usage up to then."""
    head = {"id": "r", "object": "response", "created_at": 1, "model": "x", "output": []}
    failed = {
        "status": "failed",
        "error": {"code": "server_error", "message": "it broke"},
        "usage": {"input_tokens": 40, "output_tokens": 10, "total_tokens": 50},
    }
    return event({"type": "response.created", "response": {**head, "status": "in_progress"}}) + event(
        {"type": "response.failed", "response": {**head, **failed}}
    )


def second_answer() -> str:
    """A stream of chat completions with two answers, of which a chunk has both."""
    other = {"index": 1, "delta": {"content": "another answer"}, "finish_reason": None}
    first = {"index": 0, "delta": {"content": ANSWER}, "finish_reason": None}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1}
    return event({**head, "choices": [first, other]}) + event({**head, "choices": [other]}) + chat()


def until(line: str, body: str) -> str:
    """The part of a stream before a line."""
    return body.partition(line)[0]


def chunk(delta: Mapping[str, Any], **more: Any) -> str:
    """An event of chat completions."""
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return event({"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [choice], **more})


def response(kind: str, *, says: str) -> str:
    """A stream of OpenAI's Responses whose last event is of this kind, with text or a refusal (``says``)."""
    head = {"id": "r", "object": "response", "created_at": 1, "model": "x", "output": []}
    item = {"type": "message", "id": "m", "status": "in_progress", "role": "assistant", "content": []}
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    usage = {"input_tokens": 40, "output_tokens": 10, "total_tokens": 50}
    events = [
        {"type": "response.created", "response": {**head, "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": f"response.{says}.delta", **place, "delta": ANSWER},
        {"type": f"response.{kind}", "response": {**head, "status": kind, "usage": usage}},
    ]
    return "".join(map(event, events))


def usage_in_choice() -> str:
    """A stream of chat completions with the usage inside the last choice."""
    usage = {"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 50}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1}
    end = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}
    return openai(done=False) + event({**head, "choices": [end]}) + "data: [DONE]\n\n"


def gemini(finish: str | None = None, text: str = "", **counts: int) -> str:
    """A stream of ``streamGenerateContent`` with one candidate; ``counts`` replace those of its usage."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    usage = {"promptTokenCount": 40, "candidatesTokenCount": 10, "totalTokenCount": 50, **counts}
    return event(
        {"candidates": [candidate | ({"finishReason": finish} if finish else {})], "usageMetadata": usage}
    )


def claude(stop: str | None = None, *, input_tokens: Any = 40, extra: str = "") -> str:
    """A stream of Anthropic's Messages; without ``stop`` it ends before its last two events.

    ``extra`` is sent after the text.
    """
    usage = {"input_tokens": input_tokens, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "x", "usage": usage}
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ANSWER}}
    body = event({"type": "message_start", "message": {**message, "stop_reason": None}}) + event(start)
    body += event(delta) + extra + event({"type": "content_block_stop", "index": 0})
    if stop is None:
        return body
    end = {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 10}}
    return body + event(end) + event({"type": "message_stop"})


CHOICE = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
SAID = {"role": "assistant", "content": ANSWER}
COSTS = {"cost": "0.0001", "cost_details": {"upstream_inference_cost": "1e-4"}}
DETAILS = {"prompt_tokens_details": {"cached_tokens": "15.0"}, "completion_tokens_details": None}
ROUTED = {"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 50}
SAYS_HALF = {"candidates": [{"content": {"role": "model", "parts": [{"text": "half"}]}, "index": 0}]}
BROKEN = event({"error": {"code": 502, "message": "Provider disconnected"}})
OVERLOADED = event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
CALL = {"index": 0, "id": "t", "type": "function", "function": {"name": "read", "arguments": ""}}
BLOCKED = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 40}}

MODELS: dict[str, Raw] = {
    "cut": Raw(wire="compatible", body=openai(done=False)),
    "no-finish": Raw(wire="compatible", body=openai(None)),
    "nothing": Raw(wire="compatible", body=""),
    "html": Raw(wire="compatible", body="<html>Sign in</html>", content_type="text/html"),
    "json": Raw(
        wire="compatible",
        body=json.dumps({"object": "chat.completion", "choices": [CHOICE]}),
        content_type="application/json",
    ),
    "eos": Raw(wire="compatible", body=openai("eos")),
    "empty-finish": Raw(wire="compatible", body=openai("")),
    "eos-without-text": Raw(wire="compatible", body=openai("eos", text="")),
    "sensitive": Raw(wire="compatible", body=openai("sensitive")),
    "window": Raw(wire="compatible", body=openai("model_context_window_exceeded")),
    "error": Raw(wire="compatible", body=openai("error")),
    "no-call": Raw(wire="compatible", body=openai("tool_calls")),
    "cumulative": Raw(wire="compatible", body=cumulative([3, 6, 10])),
    "usage-in-choice": Raw(wire="compatible", body=usage_in_choice()),
    "null-error": Raw(wire="compatible", body=chat(SAID, error=None)),
    "empty-error": Raw(wire="compatible", body=chat(SAID, error={})),
    "odd-content": Raw(wire="compatible", body=chat(SAID, {"content": 5})),
    "two-answers": Raw(wire="compatible", body=second_answer()),
    "refusal": Raw(
        wire="compatible", body=chat({"content": None, "refusal": "the whole"}, {"refusal": " answer"})
    ),
    "response-refusal": Raw(wire="responses", body=response("completed", says="refusal")),
    "response-incomplete": Raw(wire="responses", body=response("incomplete", says="output_text")),
    "failed-response": Raw(wire="responses", body=failed_response()),
    "cost-in-quotes": Raw(wire="router", body=chat(SAID, usage={**ROUTED, **COSTS})),
    "details-in-quotes": Raw(wire="router", body=chat(SAID, usage={**ROUTED, **DETAILS})),
    "no-cost": Raw(wire="router", body=chat(SAID, usage={**ROUTED, "cost": None})),
    "claude-quotes": Raw(wire="claude", body=claude("end_turn", input_tokens="40.0")),
    "claude-event": Raw(
        wire="claude", body=claude("end_turn", extra=event({"type": "new_event", "index": 0}))
    ),
    "gemini-tools": Raw(
        wire="gemini", body=gemini("STOP", ANSWER, promptTokenCount=25, toolUsePromptTokenCount=15)
    ),
    "text-then-error": Raw(wire="compatible", body=openai(done=False) + BROKEN),
    "reasoning-then-error": Raw(wire="compatible", body=chunk({"reasoning_content": "So"}) + BROKEN),
    "call-then-error": Raw(wire="compatible", body=chunk({"content": None, "tool_calls": [CALL]}) + BROKEN),
    "text-in-error": Raw(
        wire="compatible", body=chunk({"content": "half"}, error={"code": 502, "message": "Gone"})
    ),
    "response-then-error": Raw(
        wire="responses",
        body=response("failed", says="output_text").partition("event: response.failed")[0] + BROKEN,
    ),
    "claude-then-error": Raw(wire="claude", body=claude() + OVERLOADED),
    "gemini-then-error": Raw(wire="gemini", body=event(SAYS_HALF) + BROKEN),
    "role-then-error": Raw(wire="compatible", body=chunk({"role": "assistant", "content": ""}) + BROKEN),
    "start-then-error": Raw(
        wire="claude", body=claude().partition("event: content_block_delta")[0] + OVERLOADED
    ),
    "gemini-blocked": Raw(wire="gemini", body=event(BLOCKED)),
    "gemini-other": Raw(wire="gemini", body=gemini("OTHER")),
    "gemini-cut": Raw(wire="gemini", body=gemini(text=ANSWER)),
    "claude-cut": Raw(wire="claude", body=claude()),
    "claude-eos": Raw(wire="claude", body=claude("eos")),
}


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that gave up."""


class RawProvider:
    """Serves MODELS; ``requests`` counts the model requests of each, ``bodies`` has the last one of each."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.bodies: dict[str, dict[str, Any]] = {}
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def opencode_config(self) -> dict[str, Any]:
        """A config with a provider for each wire."""
        options = {"baseURL": f"http://127.0.0.1:{self._server.server_port}/v1", "apiKey": "sk-test"}
        return {"provider": {wire: self._provider(wire, options) for wire in SDKS}}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def _provider(self, wire: str, options: Mapping[str, Any]) -> dict[str, Any]:
        models = {name: PRICED for name, raw in MODELS.items() if raw.wire == wire}
        return {"npm": SDKS[wire], "options": options, "models": models}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                in_path = re.search(r"/models/([^/:]+):", self.path)
                model = in_path[1] if in_path else body["model"]
                server.requests[model] += 1
                server.bodies[model] = body
                raw = MODELS[model]
                self.send_response(200)
                self.send_header("content-type", raw.content_type)
                self.send_header("content-length", str(len(raw.body)))
                self.end_headers()
                self.wfile.write(raw.body.encode())

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is http.server's
                return

        return Handler
