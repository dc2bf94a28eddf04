"""Chat completions of other providers. Each class has the differences from OpenAI.

OpenRouter: https://openrouter.ai/docs/api-reference/overview and
https://openrouter.ai/docs/api-reference/errors (errors in a stream)
xAI: https://docs.x.ai/docs/api-reference#chat-completions
Groq: https://console.groq.com/docs/api-reference#chat-create
Mistral: https://docs.mistral.ai/api/#tag/chat
DeepSeek: https://api-docs.deepseek.com/api/create-chat-completion
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from opencode_tasks.testing.wires import chat, sse
from opencode_tasks.testing.wires.turn import Tokens


class OpenRouterStream(chat.ChatStream):
    """OpenRouter: reasoning has details, and an error is a chunk that finishes the choice."""

    def reasoning(self, text: str) -> bytes:
        """Return a chunk of reasoning."""
        detail = {"type": "reasoning.text", "text": text, "format": "unknown", "index": 0}
        return self.chunk({"content": "", "reasoning": text, "reasoning_details": [detail]})

    def error(self, error: Mapping[str, Any]) -> bytes:
        """Return a chunk with the error and the finish reason "error"."""
        return self.chunk({"content": ""}, "error", error=error)


class XaiStream(chat.ChatStream):
    """xAI: the completion tokens do not include the reasoning tokens, the total does."""

    def computed_usage(self, tokens: Tokens) -> dict[str, Any]:
        """Return the usage object."""
        return super().computed_usage(tokens) | {"completion_tokens": tokens.visible}


class GroqStream(chat.ChatStream):
    """Groq: the usage of a stream is in ``x_groq``."""

    def reasoning(self, text: str) -> bytes:
        """Return a chunk of reasoning."""
        return self.chunk({"reasoning": text})

    def usage_fields(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the last chunk that report the usage."""
        return {"x_groq": {"id": "req_1", "usage": usage}}


class MistralStream(chat.ChatStream):
    """Mistral: reasoning is a part of the content, and ids of calls have nine letters or digits."""

    def reasoning(self, text: str) -> bytes:
        """Return a chunk of reasoning."""
        thinking = [{"type": "text", "text": text}]
        return self.chunk({"content": [{"type": "thinking", "thinking": thinking}]})

    def call(self, index: int, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return a call of a tool."""
        function = {"name": name, "arguments": json.dumps(dict(arguments))}
        return {"id": f"call{index:05}", "type": "function", "function": function}

    def computed_usage(self, tokens: Tokens) -> dict[str, Any]:
        """Return the usage object, which counts reasoning as completion."""
        return {
            "prompt_tokens": tokens.input,
            "completion_tokens": tokens.output,
            "total_tokens": tokens.input + tokens.output,
            "num_cached_tokens": tokens.cache_read,
        }


class DeepSeekStream(chat.ChatStream):
    """DeepSeek: cache hits and misses are fields of the usage too, and a stream has comments."""

    def start(self) -> bytes:
        """Return a comment, as DeepSeek sends it until an answer begins, and the first chunk."""
        return sse.COMMENT + super().start()

    def computed_usage(self, tokens: Tokens) -> dict[str, Any]:
        """Return the usage object."""
        hits = {"prompt_cache_hit_tokens": tokens.cache_read}
        misses = {"prompt_cache_miss_tokens": tokens.input - tokens.cache_read}
        return super().computed_usage(tokens) | hits | misses


OPENROUTER = chat.shape(OpenRouterStream)
XAI = chat.shape(XaiStream)
GROQ = chat.shape(GroqStream)
MISTRAL = chat.shape(MistralStream)
DEEPSEEK = chat.shape(DeepSeekStream)
