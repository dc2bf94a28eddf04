"""OpenAI's chat completions, which most other providers have copied.

Requests and answers: https://platform.openai.com/docs/api-reference/chat/create
Chunks of a stream: https://platform.openai.com/docs/api-reference/chat/streaming
The reasoning in ``reasoning_content`` is not OpenAI's; DeepSeek introduced it and others use it:
https://api-docs.deepseek.com/guides/reasoning_model
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from opencode_tasks.testing.wires import sse
from opencode_tasks.testing.wires.turn import (
    Body,
    Question,
    Shape,
    Stream,
    Tokens,
    Turn,
    joined_text,
    last_of_user,
)

ID = "chatcmpl-1"


def read(body: Body) -> Question:
    """Read a request. System texts are joined by blank lines."""
    messages: list[Any] = body.get("messages") or []
    systems = [one for one in messages if one.get("role") in {"system", "developer"}]
    system = "\n\n".join(joined_text(one.get("content")) for one in systems)
    return Question(prompt=joined_text(last_of_user(messages, "content")), system=system)


class ChatStream(Stream):
    """Chunks of a chat completion; a base of the wires that vary it."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn

    def start(self) -> bytes:
        """Return the chunk that begins the message."""
        return self.chunk({"role": "assistant", "content": ""})

    def reasoning(self, text: str) -> bytes:
        """Return a chunk of reasoning."""
        return self.chunk({"reasoning_content": text})

    def text(self, part: str) -> bytes:
        """Return a chunk of text."""
        return self.chunk({"content": part})

    def tool_call(self, index: int, name: str, arguments: Mapping[str, Any]) -> bytes:
        """Return a chunk with a whole call."""
        return self.chunk({"tool_calls": [{"index": index, **self.call(index, name, arguments)}]})

    def close(self) -> bytes:
        """Return nothing: the content has no end mark."""
        return b""

    def error(self, error: Mapping[str, Any]) -> bytes:
        """Return an event with the error in the place of a chunk."""
        return sse.data({"error": error})

    def end(self) -> bytes:
        """Return the chunk with finish reason and usage, and the end mark."""
        usage = self.turn.usage(self.computed_usage(self.turn.tokens))
        more = {} if usage is None else self.usage_fields(usage)
        return self.chunk({}, self.turn.finish("stop", "tool_calls"), **more) + sse.DONE

    def chunk(self, delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> bytes:
        """Return an event with one choice."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        head = {"id": ID, "object": "chat.completion.chunk", "created": self.turn.created}
        return sse.data({**head, "model": self.turn.model, "choices": [choice], **more})

    def call(self, index: int, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return a call of a tool."""
        function = {"name": name, "arguments": json.dumps(dict(arguments))}
        return {"id": f"call_{index}", "type": "function", "function": function}

    def usage_fields(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the last chunk that report the usage."""
        return {"usage": usage}

    def computed_usage(self, tokens: Tokens) -> dict[str, Any]:
        """Return the usage object. Cache writes are reported if there are any, as newer models do."""
        written = {"cache_write_tokens": tokens.cache_write} if tokens.cache_write else {}
        return {
            "prompt_tokens": tokens.input,
            "completion_tokens": tokens.output,
            "total_tokens": tokens.input + tokens.output,
            "prompt_tokens_details": {"cached_tokens": tokens.cache_read, **written},
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
        }

    def document(self, text: str) -> Mapping[str, Any]:
        """Return the answer to a request that asks for no stream."""
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls := self._calls():
            message["tool_calls"] = calls
        finish = self.turn.finish("stop", "tool_calls")
        choice = {"index": 0, "message": message, "finish_reason": finish}
        usage = self.turn.usage(self.computed_usage(self.turn.tokens))
        head = {"id": ID, "object": "chat.completion", "model": self.turn.model, "choices": [choice]}
        return head if usage is None else {**head, "usage": usage}

    def _calls(self) -> Sequence[Mapping[str, Any]]:
        calls = enumerate(self.turn.reply.tool_calls)
        return [self.call(index, name, arguments) for index, (name, arguments) in calls]


def shape(stream: type[ChatStream]) -> Shape:
    """Return the shape of an API whose answers ``stream`` renders."""
    return Shape(
        read=read,
        stream=stream,
        media_type=sse.MEDIA_TYPE,
        keep_alive=sse.COMMENT,
        document=lambda turn, text: stream(turn).document(text),
    )


SHAPE = shape(ChatStream)
