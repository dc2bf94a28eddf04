"""A request that the opencode plugin refused to send, and the error that the refusal means. Pure.

The plugin gives the reason in a response header (see ``opencode/plugin/opencode-tasks.js``). The steps
before the refused request are complete and paid for, so an answer in them is kept.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from opencode_tasks.domain.json_values import mapping_in, text_in
from opencode_tasks.errors import (
    AttachedFileError,
    BudgetExceededError,
    ContentFilteredError,
    InvalidRequestError,
    MaxOutputTokensError,
    OpenCodeError,
    ServerError,
    UnknownOpenCodeError,
)

HEADER = "x-opencode-tasks-refusal"
TOOL_ERROR_LIMIT = 120
Kind = Literal["end", "tools", "steps", "cost", "files"]
KINDS = frozenset({"end", "tools", "steps", "cost", "files"})

# Words of finish reasons that do not end a complete answer, as parts of the reason, in lower case. opencode
# knows few reasons, and gateways add their own; any other word, such as eos or end_turn, ends a complete one.
# Sources: https://docs.z.ai/api-reference/llm/chat-completion (sensitive, network_error,
# model_context_window_exceeded), https://api-docs.deepseek.com/api/create-chat-completion
# (insufficient_system_resource), https://ai.google.dev/api/generate-content (malformed_response, recitation,
# language, blocklist, prohibited_content, spii, unexpected_tool_call),
# https://openrouter.ai/docs/api-reference/overview (error),
# https://cloud.ibm.com/apidocs/watsonx-ai (time_limit, token_limit, not_finished, cancelled).
_FILTERED = re.compile(
    r"filter|sensitive|safety|refus|guardrail|recitation|block(ed|list)|prohibited|spii|moderation|policy|language"
)
_FAILED = re.compile(
    r"error|fail|abort|cancel|interrupt|time_?(out|limit)|timed|insufficient|incomplete|partial|unfinished|not_"
    r"|malformed|overload|disconnect|unavailable"
)
_TOO_LONG = re.compile(r"length|max|limit|window|exceed|truncat|cut_?off")
NO_TOOL_CALL = frozenset(
    {"tool_calls", "tool_use", "function_call", "malformed_function_call", "unexpected_tool_call"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the plugin did not send a request.

    ``end``: after the end of the last step, opencode would repeat its request. ``finish`` is the finish
    reason as the provider names it (None: the stream had none, "": it was empty), ``has_end_mark`` says
    whether the stream had the end mark of its wire, ``blocked`` why the provider refused the prompt,
    and ``content_type`` is that of the response.
    ``tools``: no tool call has succeeded in the last ``count`` steps; ``tool`` and ``tool_error`` are
    those of the last call. ``steps``: the prompt has used ``count`` requests. ``cost``: the session has
    cost ``spent_pico`` of ``limit_pico`` pico-dollars; ``model`` is set if it has cost less, but no price of
    that model is known. ``files``: ``file_error`` says why the files of the prompt cannot be sent.
    """

    kind: Kind
    finish: str | None = None
    has_end_mark: bool = False
    blocked: str | None = None
    content_type: str = ""
    count: int = 0
    tool: str = ""
    tool_error: str = ""
    limit_pico: int = 0
    spent_pico: int = 0
    model: str = ""
    file_error: str = ""

    @property
    def is_cut(self) -> bool:
        """Whether the response stream stopped before its end."""
        has_end = bool(self.finish) or self.has_end_mark or bool(self.blocked)
        return self.kind == "end" and not has_end


def read_refusal(error: Mapping[str, Any] | None) -> Refusal | None:
    """The refusal in an opencode error ``{"name": …, "data": …}``; None if it is another error."""
    headers = mapping_in(mapping_in(mapping_in(error).get("data")).get("responseHeaders"))
    text = text_in(headers.get(HEADER))
    if text is None:
        return None
    try:
        given = mapping_in(json.loads(base64.b64decode(text)))
    except (binascii.Error, ValueError):
        return None
    return _refusal(given) if given.get("kind") in KINDS else None


def error_of(refusal: Refusal, text: str, *, node_id: str, exit_code: int) -> OpenCodeError | None:
    """The error of a refusal with another reason than the cost; None if ``text`` is a complete answer.

    ``text`` is the text of the steps before the refused request.
    """
    if refusal.kind == "end":
        return _abnormal_end(refusal, text, node_id, exit_code)
    if refusal.kind == "tools":
        last = f"{refusal.tool}: {refusal.tool_error[:TOOL_ERROR_LIMIT]}"
        message = f"no tool call succeeded in {refusal.count} model calls in a row; the last one: {last}"
        return InvalidRequestError(node_id, exit_code, message)
    if refusal.kind == "files":
        error = AttachedFileError(node_id, exit_code, refusal.file_error)
        error.max_attempts = 1
        return error
    message = (
        f"the row has used {refusal.count} model calls, the maximum for one prompt "
        "(setting OPENCODE_TASKS_MAX_STEPS)"
    )
    return BudgetExceededError(node_id, exit_code, message)


def _abnormal_end(refusal: Refusal, text: str, node_id: str, exit_code: int) -> OpenCodeError | None:
    if refusal.blocked:
        message = f"the provider blocked the prompt ({refusal.blocked})"
        return ContentFilteredError(node_id, exit_code, message, text)
    kind = refusal.content_type.partition(";")[0].strip()
    if not text and kind and "event" not in kind:
        message = f"the provider answered with {kind} instead of a stream of events"
        return ServerError(node_id, exit_code, message)
    if not refusal.finish and not (refusal.finish == "" and refusal.has_end_mark):
        message = "the provider's stream ended without a finish reason"
        return ServerError(node_id, exit_code, message)
    return _unknown_finish(refusal.finish, text, node_id, exit_code)


def _unknown_finish(finish: str, text: str, node_id: str, exit_code: int) -> OpenCodeError | None:
    message = f"the provider ended the answer with the finish reason {finish!r}"
    reason = re.sub(r"\W+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", finish)).lower()
    if reason in NO_TOOL_CALL:
        return UnknownOpenCodeError(node_id, exit_code, f"{message}, and called no tool")
    if _FILTERED.search(reason):
        return ContentFilteredError(node_id, exit_code, message, text)
    if _FAILED.search(reason):
        return ServerError(node_id, exit_code, message)
    if _TOO_LONG.search(reason):
        return MaxOutputTokensError(node_id, exit_code, message, text)
    return None if text else UnknownOpenCodeError(node_id, exit_code, f"{message}, and sent no text")


def _refusal(given: Mapping[str, Any]) -> Refusal:
    wire = mapping_in(given.get("wire"))
    finish = wire.get("finish")
    return Refusal(
        kind=cast("Kind", given["kind"]),
        finish=finish if isinstance(finish, str) else None,
        has_end_mark=wire.get("done") is True,
        blocked=text_in(wire.get("blocked")),
        content_type=text_in(wire.get("type")) or "",
        count=_whole(given.get("steps", given.get("limit"))),
        tool=text_in(given.get("tool")) or "a tool",
        tool_error=text_in(given.get("error")) or "",
        limit_pico=_whole(given.get("limit_pico")),
        spent_pico=_whole(given.get("spent_pico")),
        model=text_in(given.get("model")) or "",
        file_error=text_in(given.get("error")) or "",
    )


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
