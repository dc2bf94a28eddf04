"""Gemini's ``streamGenerateContent`` with server-sent events.

Requests, answers and block reasons: https://ai.google.dev/api/generate-content
Thoughts: https://ai.google.dev/gemini-api/docs/thinking
Calls of functions: https://ai.google.dev/gemini-api/docs/function-calling
"""

from __future__ import annotations

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


def read(body: Body) -> Question:
    """Read a request. Parts of the system instruction are joined by blank lines."""
    instruction: Any = body.get("systemInstruction") or {}
    parts: list[Any] = instruction.get("parts", [])
    prompt = joined_text(last_of_user(body.get("contents") or [], "parts"))
    return Question(prompt=prompt, system="\n\n".join(part.get("text", "") for part in parts))


class GeminiStream(Stream):
    """Responses with one candidate, each with a part of the content."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn

    def start(self) -> bytes:
        """Return nothing: a stream begins with its content."""
        return b""

    def reasoning(self, text: str) -> bytes:
        """Return a thought."""
        return self._part({"text": text, "thought": True})

    def text(self, part: str) -> bytes:
        """Return a part of the text."""
        return self._part({"text": part})

    def tool_call(self, index: int, name: str, arguments: Mapping[str, Any]) -> bytes:
        """Return a call of a function."""
        return self._part({"functionCall": {"id": f"call_{index}", "name": name, "args": dict(arguments)}})

    def close(self) -> bytes:
        """Return nothing: the content has no end mark."""
        return b""

    def error(self, error: Mapping[str, Any]) -> bytes:
        """Return an event with the error in the place of a response."""
        return sse.data({"error": error})

    def end(self) -> bytes:
        """Return finish reason and usage, or the reason for which the prompt is blocked."""
        usage = self.turn.usage(computed_usage(self.turn.tokens))
        more = {} if usage is None else {"usageMetadata": usage}
        if self.turn.reply.block_reason is not None:
            feedback = {"blockReason": self.turn.reply.block_reason}
            return self._response({"promptFeedback": feedback, **more})
        finish = {"finishReason": self.turn.finish("STOP", "STOP")}
        return self._response({"candidates": [{**_candidate({"text": ""}), **finish}], **more})

    def _part(self, part: Mapping[str, Any]) -> bytes:
        return self._response({"candidates": [_candidate(part)]})

    def _response(self, fields: Mapping[str, Any]) -> bytes:
        return sse.data({**fields, "modelVersion": self.turn.model, "responseId": "resp-1"})


def _candidate(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": {"parts": [part], "role": "model"}, "index": 0}


def computed_usage(tokens: Tokens) -> dict[str, Any]:
    """Return the usage metadata: candidates exclude thoughts, the prompt includes cached tokens."""
    return {
        "promptTokenCount": tokens.input,
        "cachedContentTokenCount": tokens.cache_read,
        "candidatesTokenCount": tokens.visible,
        "thoughtsTokenCount": tokens.reasoning,
        "totalTokenCount": tokens.input + tokens.output,
    }


SHAPE = Shape(read=read, stream=GeminiStream, media_type=sse.MEDIA_TYPE, keep_alive=sse.COMMENT)
