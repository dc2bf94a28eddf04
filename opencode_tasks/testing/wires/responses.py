"""OpenAI's Responses API.

Requests and answers: https://platform.openai.com/docs/api-reference/responses/create
Events of a stream: https://platform.openai.com/docs/api-reference/responses-streaming
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

COMPLETED = "completed"
TEXT_TYPES = (None, "input_text", "text")


def read(body: Body) -> Question:
    """Read a request. System texts are joined by blank lines."""
    given: Any = body.get("input") or []
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    systems = [one.get("content") for one in items if one.get("role") in {"system", "developer"}]
    texts = [text for text in (body.get("instructions"), *systems) if text]
    prompt = joined_text(last_of_user(items, "content"), TEXT_TYPES)
    return Question(prompt=prompt, system="\n\n".join(joined_text(text, TEXT_TYPES) for text in texts))


class ResponsesStream(Stream):
    """Events of a response, whose output is a list of items."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._text: list[str] | None = None  # parts of the open message

    def start(self) -> bytes:
        """Return the events that begin the response."""
        response = self._response("in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def reasoning(self, text: str) -> bytes:
        """Return an item of reasoning with one summary."""
        item: dict[str, Any] = {"id": "rs_1", "type": "reasoning", "summary": [], "status": "in_progress"}
        place = {"item_id": "rs_1", "output_index": len(self._output), "summary_index": 0}
        part = {"type": "summary_text", "text": text}
        return (
            self._added(item)
            + self._event("response.reasoning_summary_part.added", **place, part={**part, "text": ""})
            + self._event("response.reasoning_summary_text.delta", **place, delta=text)
            + self._event("response.reasoning_summary_text.done", **place, text=text)
            + self._event("response.reasoning_summary_part.done", **place, part=part)
            + self._done({**item, "summary": [part], "status": COMPLETED})
        )

    def text(self, part: str) -> bytes:
        """Return a part of the message, after its start if it is the first."""
        opened = b""
        if self._text is None:
            self._text = []
            opened = self._added(self._message("in_progress", [])) + self._event(
                "response.content_part.added", **self._place(), part=_text_part("")
            )
        self._text.append(part)
        return opened + self._event("response.output_text.delta", **self._place(), delta=part, logprobs=[])

    def tool_call(self, index: int, name: str, arguments: Mapping[str, Any]) -> bytes:
        """Return an item with a call of a function."""
        closed = self.close()
        text = json.dumps(dict(arguments))
        item = {"id": f"fc_{index}", "type": "function_call", "call_id": f"call_{index}", "name": name}
        place = {"item_id": item["id"], "output_index": len(self._output)}
        return (
            closed
            + self._added({**item, "status": "in_progress", "arguments": ""})
            + self._event("response.function_call_arguments.delta", **place, delta=text)
            + self._event("response.function_call_arguments.done", **place, arguments=text)
            + self._done({**item, "status": COMPLETED, "arguments": text})
        )

    def close(self) -> bytes:
        """Return the end of the open message."""
        if self._text is None:
            return b""
        text, place = "".join(self._text), self._place()
        self._text = None
        part = _text_part(text)
        return (
            self._event("response.output_text.done", **place, text=text, logprobs=[])
            + self._event("response.content_part.done", **place, part=part)
            + self._done(self._message(COMPLETED, [part]))
        )

    def error(self, error: Mapping[str, Any]) -> bytes:
        """Return an event ``error`` if the error has a type, else ``response.failed``."""
        if "type" in error:
            return self._event("error", error=error)
        return self._event("response.failed", response={**self._response("failed"), "error": error})

    def end(self) -> bytes:
        """Return ``response.completed``, or ``response.incomplete`` if there is another finish reason."""
        reason = self.turn.finish(COMPLETED, COMPLETED)
        status = COMPLETED if reason == COMPLETED else "incomplete"
        response = self._response(status)
        if status != COMPLETED:
            response["incomplete_details"] = {"reason": reason}
        usage = self.turn.usage(computed_usage(self.turn.tokens))
        if usage is not None:
            response["usage"] = usage
        return self._event(f"response.{status}", response=response)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number = self._number
        self._number += 1
        return sse.named({"type": kind, "sequence_number": number, **fields})

    def _response(self, status: str) -> dict[str, Any]:
        head = {"id": "resp_1", "object": "response", "created_at": self.turn.created, "status": status}
        nothing = {"error": None, "incomplete_details": None, "usage": None}
        return {**head, **nothing, "model": self.turn.model, "output": list(self._output)}

    def _added(self, item: Mapping[str, Any]) -> bytes:
        return self._event("response.output_item.added", output_index=len(self._output), item=item)

    def _done(self, item: dict[str, Any]) -> bytes:
        event = self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        return event

    def _place(self) -> dict[str, Any]:
        return {"item_id": "msg_1", "output_index": len(self._output), "content_index": 0}

    def _message(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {"id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": content}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def computed_usage(tokens: Tokens) -> dict[str, Any]:
    """Return the usage object. Cache writes are reported if there are any, as newer models do."""
    written = {"cache_write_tokens": tokens.cache_write} if tokens.cache_write else {}
    return {
        "input_tokens": tokens.input,
        "input_tokens_details": {"cached_tokens": tokens.cache_read, **written},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.input + tokens.output,
    }


SHAPE = Shape(read=read, stream=ResponsesStream, media_type=sse.MEDIA_TYPE, keep_alive=sse.COMMENT)
