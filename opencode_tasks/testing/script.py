"""What the scripted provider is told to do, and what it saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the provider does with one request.

    ``text=None`` echoes the prompt. ``status`` other than 200 sends ``headers`` and ``body`` as
    they are. ``input_tokens`` includes the cached ones and ``output_tokens`` the reasoning ones,
    as on OpenAI's wire; None makes them from the lengths of the texts. ``cut_after`` ends the
    connection after that many chunks of text, without an end mark. ``hang`` answers nothing until
    the client gives up; ``reset`` closes the connection instead of answering.
    """

    text: str | None = None
    chunks: int = 1
    delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    reasoning_text: str = ""
    tool_calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    finish_reason: str | None = None
    input_tokens: int | None = None
    cache_read_tokens: int = 0
    output_tokens: int | None = None
    reasoning_tokens: int = 0
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: str | bytes | Mapping[str, Any] = ""
    cut_after: int | None = None
    hang: bool = False
    reset: bool = False


@dataclass(slots=True, kw_only=True)
class Call:
    """One request as the provider saw it; token counts are what it reported (0 where it did not)."""

    at: float
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    prompt: str
    model: str
    authorization: str = ""
    status: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    reasoning_tokens: int = 0
    ended: bool = False

    @property
    def session_id(self) -> str | None:
        """Opencode's session id, from the header its OpenAI-compatible client sends."""
        return self.headers.get("x-session-affinity")

    @property
    def system(self) -> str:
        """The system texts of the request, joined by blank lines."""
        texts = [message_text(m) for m in self.body.get("messages", []) if m.get("role") == "system"]
        return "\n\n".join(texts)


def message_text(message: Mapping[str, Any]) -> str:
    """The text of a chat message, whether its content is a string or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if part.get("type") == "text")
