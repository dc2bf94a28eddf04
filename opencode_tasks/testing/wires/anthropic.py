"""Anthropic's Messages.

Requests and answers: https://docs.anthropic.com/en/api/messages
Events of a stream, errors included: https://docs.anthropic.com/en/docs/build-with-claude/streaming
Thinking: https://docs.anthropic.com/en/docs/build-with-claude/extended-thinking
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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

SIGNATURE = "c2NyaXB0ZWQ="


def read(body: Body) -> Question:
    """Read a request. Parts of the system text are joined by blank lines."""
    system: Any = body.get("system") or ""
    texts = [system] if isinstance(system, str) else [part.get("text", "") for part in system]
    prompt = joined_text(last_of_user(body.get("messages") or [], "content"))
    return Question(prompt=prompt, system="\n\n".join(texts))


class AnthropicStream(Stream):
    """Events of a message, whose content is a sequence of blocks."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self._index = -1
        self._open = ""

    def start(self) -> bytes:
        """Return the event that begins the message, with the usage of the input."""
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": self.turn.model}
        message: dict[str, Any] = {**head, "content": [], "stop_reason": None, "stop_sequence": None}
        usage = self.turn.usage({**input_usage(self.turn.tokens), "output_tokens": 1})
        if usage is not None:
            message["usage"] = usage
        return sse.named({"type": "message_start", "message": message})

    def reasoning(self, text: str) -> bytes:
        """Return a block of thinking with its signature."""
        opened = self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        thinking = self._delta({"type": "thinking_delta", "thinking": text})
        return opened + thinking + self._delta({"type": "signature_delta", "signature": SIGNATURE})

    def text(self, part: str) -> bytes:
        """Return a part of a block of text, after the start of the block if it is the first."""
        opened = b"" if self._open == "text" else self._begin("text", {"type": "text", "text": ""})
        return opened + self._delta({"type": "text_delta", "text": part})

    def tool_call(self, index: int, name: str, arguments: Mapping[str, Any]) -> bytes:
        """Return a block with a call, whose arguments are JSON in pieces."""
        block: dict[str, Any] = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": {}}
        opened = self._begin("tool_use", block)
        return opened + self._delta({"type": "input_json_delta", "partial_json": json.dumps(dict(arguments))})

    def close(self) -> bytes:
        """Return the end of the open block."""
        if not self._open:
            return b""
        self._open = ""
        return sse.named({"type": "content_block_stop", "index": self._index})

    def error(self, error: Mapping[str, Any]) -> bytes:
        """Return an event ``error``."""
        return sse.named({"type": "error", "error": error})

    def end(self) -> bytes:
        """Return stop reason, final usage and the end of the message."""
        reason = self.turn.finish("end_turn", "tool_use")
        delta = {"stop_reason": reason, "stop_sequence": None}
        event: dict[str, Any] = {"type": "message_delta", "delta": delta}
        usage = self.turn.usage({**input_usage(self.turn.tokens), **output_usage(self.turn.tokens)})
        if usage is not None:
            event["usage"] = usage
        return sse.named(event) + sse.named({"type": "message_stop"})

    def _begin(self, kind: str, block: Mapping[str, Any]) -> bytes:
        closed = self.close()
        self._index += 1
        self._open = kind
        return closed + sse.named(
            {"type": "content_block_start", "index": self._index, "content_block": block}
        )

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return sse.named({"type": "content_block_delta", "index": self._index, "delta": delta})


def input_usage(tokens: Tokens) -> dict[str, Any]:
    """Return the counts of the input; ``input_tokens`` excludes cached tokens."""
    return {
        "input_tokens": tokens.uncached,
        "cache_creation_input_tokens": tokens.cache_write,
        "cache_read_input_tokens": tokens.cache_read,
    }


def output_usage(tokens: Tokens) -> dict[str, Any]:
    """Return the counts of the output; ``output_tokens`` includes thinking."""
    details = {"output_tokens_details": {"thinking_tokens": tokens.reasoning}} if tokens.reasoning else {}
    return {"output_tokens": tokens.output, **details}


SHAPE = Shape(read=read, stream=AnthropicStream, media_type=sse.MEDIA_TYPE, keep_alive=sse.COMMENT)
