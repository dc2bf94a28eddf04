"""One request as each wire states it, and the answer that each wire renders. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from opencode_tasks.testing.script import Reply

Body = Mapping[str, Any]
RESULT_KEYS = {"functionResponse", "toolResult"}  # of Gemini and Bedrock


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Texts of a request: the last user message and the system text."""

    prompt: str
    system: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Token counts of an answer. Input includes cached tokens, output includes reasoning."""

    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int

    @property
    def uncached(self) -> int:
        """Input tokens that were neither read from a cache nor written to one."""
        return max(0, self.input - self.cache_read - self.cache_write)

    @property
    def visible(self) -> int:
        """Output tokens without reasoning."""
        return max(0, self.output - self.reasoning)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An answer to one request: model, time in seconds since 1970, reply and token counts."""

    model: str
    created: int
    reply: Reply
    tokens: Tokens

    def usage(self, computed: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the usage to report: the reply's own object, else ``computed``; None reports nothing."""
        if not self.reply.reports_usage:
            return None
        return computed if self.reply.usage is None else self.reply.usage

    def finish(self, normal: str, with_tools: str) -> str:
        """Return the finish reason: the reply's own, else the normal one of the wire."""
        if self.reply.finish_reason is not None:
            return self.reply.finish_reason
        return with_tools if self.reply.tool_calls else normal


class Stream(Protocol):
    """Bytes of one streamed answer. Each method is called in this order, the first and last once."""

    def start(self) -> bytes:
        """Return the bytes before all content."""
        ...

    def reasoning(self, text: str) -> bytes:
        """Return the reasoning."""
        ...

    def text(self, part: str) -> bytes:
        """Return a part of the text."""
        ...

    def tool_call(self, index: int, name: str, arguments: Mapping[str, Any]) -> bytes:
        """Return a call of a tool."""
        ...

    def close(self) -> bytes:
        """Return the bytes that complete the content."""
        ...

    def error(self, error: Mapping[str, Any]) -> bytes:
        """Return an error, which ends the stream instead of ``end``."""
        ...

    def end(self) -> bytes:
        """Return finish reason, usage and end mark."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Shapes of one API: how a request is read and how its answer is rendered.

    ``document`` renders an answer to a request that asks for no stream; None always streams.
    """

    read: Callable[[Body], Question]
    stream: Callable[[Turn], Stream]
    media_type: str
    keep_alive: bytes
    document: Callable[[Turn, str], Mapping[str, Any]] | None = None


def joined_text(content: Any, types: tuple[str | None, ...] = (None, "text")) -> str:
    """Return the text of a content: a string, or a list of parts, of which these types are text."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or () if part.get("type") in types)


def last_of_user(messages: list[Any], key: str) -> Any:
    """Return the last content of the user, which is under ``key``; None if there is none.

    Some wires send results of tools in the user's name. A message that only has such results is skipped.
    """
    contents = [message.get(key) for message in messages if message.get("role") == "user"]
    return next((content for content in reversed(contents) if not _has_only_results(content)), None)


def _has_only_results(content: Any) -> bool:
    if not content or isinstance(content, str):
        return False
    parts: list[Any] = content
    return all(part.get("type") == "tool_result" or RESULT_KEYS & part.keys() for part in parts)
