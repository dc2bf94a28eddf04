"""Replies of the scripted provider, and records of the requests that it received."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The reply of the provider to one request.

    Attributes:
        text: Text of the answer. None echoes the prompt.
        chunks: Number of parts in which a streamed answer is sent.
        delay_s: Seconds before the reply.
        chunk_delay_s: Seconds between two chunks.
        reasoning_text: Text of the reasoning, sent before the answer if the request asks for a stream.
        tool_calls: Calls as pairs of a tool name and its arguments. A reply with tool calls has text only
            if ``text`` is set.
        finish_reason: Finish reason. None is "tool_calls" if there are tool calls, else "stop".
        input_tokens: Reported input tokens, cached ones included. None is an estimate from the prompt.
        cache_read_tokens: Reported input tokens that were read from a cache.
        output_tokens: Reported output tokens, reasoning included. None is an estimate from the text.
        reasoning_tokens: Reported reasoning tokens.
        reports_usage: Whether the reply reports its usage.
        usage: Usage object that is sent as it is; None computes one from the counts above.
        status: HTTP status. With a status other than 200, ``headers`` and ``body`` are the response.
        headers: Headers of an error response.
        body: Body of an error response; a mapping is sent as JSON.
        cut_after: Close the connection after this number of chunks, without an end mark.
        hang: Do not answer until the client closes the connection.
        reset: Close the connection instead of an answer.

    Examples:
        A rate limit of 30 seconds:

        >>> from opencode_tasks.testing import Reply
        >>> error = {"error": {"message": "slow down"}}
        >>> limited = Reply(status=429, headers={"Retry-After": "30"}, body=error)

        An answer that is cut after the second of four chunks:

        >>> cut = Reply(text="one two three four", chunks=4, cut_after=2)

        A call of a tool:

        >>> call = Reply(tool_calls=[("weather", {"city": "Paris"})])
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
    reports_usage: bool = True
    usage: Mapping[str, Any] | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: str | bytes | Mapping[str, Any] = ""
    cut_after: int | None = None
    hang: bool = False
    reset: bool = False


@dataclass(slots=True, kw_only=True)
class Call:
    """One chat request that the provider received, and what it reported for it.

    Attributes:
        at: Time of arrival in seconds since 1970.
        path: Path of the URL.
        headers: Headers with names in lower case.
        body: JSON body of the request.
        prompt: Text of the last user message.
        model: Name of the model without the provider.
        authorization: Authorization header, "" if there is none.
        status: HTTP status of the response; 0 before it, 499 if the client closed the connection.
        input_tokens: Reported input tokens, 0 if none were reported. The other counts are alike.
        output_tokens: Reported output tokens, reasoning included.
        cache_read_tokens: Reported input tokens that were read from a cache.
        reasoning_tokens: Reported reasoning tokens.
        ended: Whether the response is complete up to its usage.

    Examples:
        >>> import httpx
        >>> from opencode_tasks.testing import ScriptedProvider
        >>> body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
        >>> with ScriptedProvider() as provider:
        ...     response = httpx.post(f"{provider.base_url}/chat/completions", json=body)
        >>> [call] = provider.calls
        >>> call.prompt, call.model, call.status
        ('hello', 'echo', 200)
    """

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
        """Session id of opencode, from the header of its OpenAI-compatible client; None without it."""
        return self.headers.get("x-session-affinity")

    @property
    def system(self) -> str:
        """System texts of the request, joined by blank lines."""
        texts = [message_text(m) for m in self.body.get("messages", []) if m.get("role") == "system"]
        return "\n\n".join(texts)


def message_text(message: Mapping[str, Any]) -> str:
    """Return the text of a chat message, whose content is a string or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if part.get("type") == "text")


def last_user_text(body: Mapping[str, Any]) -> str:
    """Return the text of the last user message of a chat request; "" if there is none."""
    users = [message for message in body.get("messages", []) if message.get("role") == "user"]
    return message_text(users[-1]) if users else ""
