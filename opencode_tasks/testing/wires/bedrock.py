"""Bedrock's ConverseStream.

Requests and events: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from opencode_tasks.testing.wires import event_stream
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
    parts: list[Any] = body.get("system") or []
    texts = [part["text"] for part in parts if "text" in part]
    prompt = joined_text(last_of_user(body.get("messages") or [], "content"))
    return Question(prompt=prompt, system="\n\n".join(texts))


class BedrockStream(Stream):
    """Events of a message, whose content is a sequence of blocks."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self._index = -1
        self._open = ""

    def start(self) -> bytes:
        """Return the event that begins the message."""
        return event_stream.event("messageStart", {"role": "assistant"})

    def reasoning(self, text: str) -> bytes:
        """Return a block of reasoning with its signature."""
        closed = self._begin("reasoning")
        content = self._delta({"reasoningContent": {"text": text}})
        return closed + content + self._delta({"reasoningContent": {"signature": SIGNATURE}})

    def text(self, part: str) -> bytes:
        """Return a part of a block of text."""
        closed = b"" if self._open == "text" else self._begin("text")
        return closed + self._delta({"text": part})

    def tool_call(self, index: int, name: str, arguments: Mapping[str, Any]) -> bytes:
        """Return a block with a call, whose input is JSON in pieces."""
        closed = self._begin("tool")
        start = {"toolUse": {"toolUseId": f"tooluse_{index}", "name": name}}
        opened = event_stream.event("contentBlockStart", {"contentBlockIndex": self._index, "start": start})
        return closed + opened + self._delta({"toolUse": {"input": json.dumps(dict(arguments))}})

    def close(self) -> bytes:
        """Return the end of the open block."""
        if not self._open:
            return b""
        self._open = ""
        return event_stream.event("contentBlockStop", {"contentBlockIndex": self._index})

    def error(self, error: Mapping[str, Any]) -> bytes:
        """Return an exception, whose kind is the error's ``type``."""
        return event_stream.exception(
            error.get("type", "internalServerException"), {"message": error.get("message", "")}
        )

    def end(self) -> bytes:
        """Return the stop reason, then the metadata with the usage."""
        reason = self.turn.finish("end_turn", "tool_use")
        stop = event_stream.event("messageStop", {"stopReason": reason})
        metadata: dict[str, Any] = {"metrics": {"latencyMs": 1}}
        usage = self.turn.usage(computed_usage(self.turn.tokens))
        if usage is not None:
            metadata["usage"] = usage
        return stop + event_stream.event("metadata", metadata)

    def _begin(self, kind: str) -> bytes:
        closed = self.close()
        self._index += 1
        self._open = kind
        return closed

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return event_stream.event("contentBlockDelta", {"contentBlockIndex": self._index, "delta": delta})


def computed_usage(tokens: Tokens) -> dict[str, Any]:
    """Return the usage; ``inputTokens`` excludes cached tokens, ``outputTokens`` includes reasoning."""
    return {
        "inputTokens": tokens.uncached,
        "outputTokens": tokens.output,
        "totalTokens": tokens.input + tokens.output,
        "cacheReadInputTokens": tokens.cache_read,
        "cacheWriteInputTokens": tokens.cache_write,
    }


SHAPE = Shape(read=read, stream=BedrockStream, media_type=event_stream.MEDIA_TYPE, keep_alive=b"")
