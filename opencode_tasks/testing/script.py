"""Replies of the scripted provider, and records of the requests that it received."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Wire = Literal[
    "chat",
    "responses",
    "anthropic",
    "gemini",
    "bedrock",
    "openrouter",
    "azure",
    "xai",
    "groq",
    "mistral",
    "deepseek",
]
"""Name of a wire: the API of a provider as the scripted provider speaks it.

``chat`` is OpenAI's chat completions, which local servers and most other providers speak; ``responses`` is
OpenAI's Responses, ``anthropic`` is Anthropic's Messages, ``gemini`` is Google's ``streamGenerateContent``,
``bedrock`` is AWS's ConverseStream. The others are chat completions or Responses as their providers vary
them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The reply of the provider to one request.

    Attributes:
        text: Text of the answer. None echoes the prompt.
        chunks: Number of parts in which a streamed answer is sent.
        delay_s: Seconds before the reply.
        chunk_delay_s: Seconds between two chunks.
        keep_alive_s: Seconds before the first chunk of a stream, with a comment ``: keep-alive`` at the start
            of each second. On the wire ``bedrock``, which has no comments, nothing is sent.
        reasoning_text: Text of the reasoning, sent before the answer if the request asks for a stream.
        tool_calls: Calls as pairs of a tool name and its arguments. A reply with tool calls has text only
            if ``text`` is set.
        finish_reason: Finish reason, as the wire names it. None is the normal one, for example "stop" or
            "tool_calls" on the wire ``chat`` and "end_turn" or "tool_use" on ``anthropic``. On ``responses``
            it is the reason of a ``response.incomplete``, for example "max_output_tokens".
        block_reason: Reason for which Gemini blocks the prompt, for example "SAFETY". Other wires ignore it.
        input_tokens: Reported input tokens, cached ones included. None is an estimate from the prompt.
        cache_read_tokens: Reported input tokens that were read from a cache.
        cache_write_tokens: Reported input tokens that were written to a cache. ``gemini`` and ``mistral`` do
            not report them; on other wires without a cache price the SDK may ignore the count.
        output_tokens: Reported output tokens, reasoning included. None is an estimate from the text.
        reasoning_tokens: Reported reasoning tokens. ``bedrock`` and ``mistral`` report them as output only.
        reports_usage: Whether a stream reports its usage.
        usage: Usage object of the wire that is reported instead of the token counts above. None reports
            the counts.
        stream_error: Error that ends a stream with status 200, after the text and in the framing of the wire.
            It is the error object: on ``anthropic``, for example, ``{"type": "overloaded_error", "message":
            "Overloaded"}``. On ``bedrock``, ``type`` is the kind of the exception. On ``responses``, an error
            with a ``type`` is an event ``error``, another one is a ``response.failed``. A reply with an error
            has text only if ``text`` is set.
        has_end: Whether a stream has a finish reason, its usage and an end mark. Without, it ends cleanly.
        raw: Body of a response with status 200, sent as it is. None renders the other fields.
        content_type: Content type of ``raw``.
        status: HTTP status. With a status other than 200, ``headers`` and ``body`` are the response.
        headers: Headers of the response.
        body: Body of an error response; a mapping is sent as JSON.
        byte_delay_s: Seconds between two bytes of a stream, which is sent one byte at a time.
        stop_after_bytes: Send this number of bytes of a stream, then nothing until the client closes the
            connection. 0 sends the headers alone.
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

        An error of Anthropic in the middle of a stream:

        >>> error = {"type": "overloaded_error", "message": "Overloaded"}
        >>> overloaded = Reply(text="one two", stream_error=error)

        A page of a proxy in the place of an answer:

        >>> page = Reply(raw=b"<html>Sign in</html>", content_type="text/html")
    """

    text: str | None = None
    chunks: int = 1
    delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    keep_alive_s: float = 0.0
    reasoning_text: str = ""
    tool_calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    finish_reason: str | None = None
    block_reason: str | None = None
    input_tokens: int | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int | None = None
    reasoning_tokens: int = 0
    reports_usage: bool = True
    usage: Mapping[str, Any] | None = None
    stream_error: Mapping[str, Any] | None = None
    has_end: bool = True
    raw: bytes | None = None
    content_type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: str | bytes | Mapping[str, Any] = ""
    byte_delay_s: float = 0.0
    stop_after_bytes: int | None = None
    cut_after: int | None = None
    hang: bool = False
    reset: bool = False


@dataclass(slots=True, kw_only=True)
class Call:
    """One model request that the provider received, and what it reported for it.

    Attributes:
        at: Time of arrival in seconds since 1970.
        path: Path of the URL.
        headers: Headers with names in lower case.
        body: JSON body of the request.
        prompt: Text of the last user message.
        model: Name of the model without the provider.
        wire: Wire of the request.
        system: System texts of the request, joined by blank lines.
        authorization: Authorization header, "" if there is none. Anthropic, Gemini and Azure have other
            headers for the key.
        status: HTTP status of the response; 0 before it, 499 if the client closed the connection.
        input_tokens: Reported input tokens, cached ones included, 0 if none or a ``usage`` of the reply
            were reported. The other counts are alike.
        output_tokens: Reported output tokens, reasoning included.
        cache_read_tokens: Reported input tokens that were read from a cache.
        cache_write_tokens: Reported input tokens that were written to a cache.
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
    wire: Wire = "chat"
    system: str = ""
    authorization: str = ""
    status: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    ended: bool = False

    @property
    def session_id(self) -> str | None:
        """Session id of opencode, from a header that it sends on every wire; None without it."""
        return self.headers.get("x-session-affinity")
