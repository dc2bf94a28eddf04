"""Steps of a session: prompts, and model calls with their tools and the results of these. Pure.

The shapes of the parts are those of opencode 1.18.33's export, as in ``trace``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

from opencode_tasks.domain.json_values import list_in, mapping_in, text_in, time_in
from opencode_tasks.outcomes.reasoning_text import split_reasoning
from opencode_tasks.outcomes.session_messages import Message, is_summary, message_model, parts_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """A call of a tool. ``result`` is its output or its error; None if it did not end.

    ``child_id`` is the session of the sub-agent that the call started, None without one.
    """

    call_id: str
    name: str
    arguments: Mapping[str, Any]
    result: str | None
    is_error: bool
    child_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptStep:
    """A prompt of the session. ``at`` is its time, None if it is unknown."""

    text: str
    at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStep:
    """A model call. ``step_id`` is None if it did not end, ``error`` is opencode's, None without one.

    ``is_summary``: the call shortened the context and is no part of the work.
    """

    text: str
    reasoning: str
    tools: Sequence[ToolUse]
    step_id: str | None
    model_ref: str
    at: datetime | None
    is_summary: bool
    error: Mapping[str, Any] | None = None


def session_steps(messages: Sequence[Message]) -> Iterator[PromptStep | ModelStep]:
    """The steps of a session, oldest first. A prompt without text is left out."""
    for message in messages:
        if mapping_in(message.get("info")).get("role") == "assistant":
            yield from _model_steps(message)
        elif text := "\n".join(text_in(part.get("text")) or "" for part in parts_of(message, "text")):
            yield PromptStep(text=text, at=_created(message))


def _model_steps(message: Message) -> list[ModelStep]:
    """The model calls of a message: each ends with a ``step-finish``; the last one may have no end."""
    found: list[ModelStep] = []
    parts: list[Mapping[str, Any]] = []
    for part in map(mapping_in, list_in(message.get("parts"))):
        if part.get("type") == "step-finish":
            found.append(_model_step(message, parts, text_in(part.get("id"))))
            parts = []
        elif part.get("type") in ("text", "reasoning", "tool"):
            parts.append(part)
    error = mapping_in(mapping_in(message.get("info")).get("error")) or None
    if parts or (error and not found):
        found.append(_model_step(message, parts, None))
    if error:
        found[-1] = replace(found[-1], error=error)
    return found


def _model_step(message: Message, parts: Sequence[Mapping[str, Any]], step_id: str | None) -> ModelStep:
    texts: list[str] = []
    thoughts: list[str] = []
    for part in parts:
        text = text_in(part.get("text"))
        if text and part.get("type") == "reasoning":
            thoughts.append(text)
        elif text and part.get("type") == "text" and not part.get("ignored"):
            thought, answer = split_reasoning(text)
            thoughts += [thought] if thought else []
            texts += [answer] if answer else []
    return ModelStep(
        text="".join(texts),
        reasoning="\n\n".join(thoughts),
        tools=[_tool_use(part) for part in parts if part.get("type") == "tool"],
        step_id=step_id,
        model_ref=message_model(mapping_in(message.get("info"))),
        at=_created(message),
        is_summary=is_summary(message),
    )


def _tool_use(part: Mapping[str, Any]) -> ToolUse:
    state = mapping_in(part.get("state"))
    given, is_error = state.get("input"), state.get("status") == "error"
    result = state.get("error") if is_error else state.get("output")
    return ToolUse(
        call_id=text_in(part.get("callID")) or str(part.get("id")),
        name=text_in(part.get("tool")) or "unknown",
        arguments=cast("Mapping[str, Any]", given)
        if isinstance(given, Mapping)
        else {"input": given}
        if given is not None
        else {},
        result=None if result is None else result if isinstance(result, str) else json.dumps(result),
        is_error=is_error,
        child_id=text_in(mapping_in(state.get("metadata")).get("sessionId")),
    )


def _created(message: Message) -> datetime | None:
    return time_in(mapping_in(mapping_in(message.get("info")).get("time")).get("created"))
