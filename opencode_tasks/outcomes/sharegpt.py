"""A session as a conversation in the ShareGPT format with tools, as LLaMA-Factory 0.9.5 reads it. Pure.

Its prompts (``human``) and results of tools (``observation``) take turns with answers (``gpt``) and calls of
tools (``function_call``); an optional ``system`` is first. Reasoning is in ``<think>`` tags before an answer
or a call.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from opencode_tasks.outcomes.agent_steps import ModelStep, PromptStep, ToolUse, session_steps
from opencode_tasks.outcomes.session_messages import Message

SYSTEM: Final = "system"
HUMAN: Final = "human"
GPT: Final = "gpt"
CALL: Final = "function_call"
OBSERVATION: Final = "observation"
_OF_MODEL = (GPT, CALL)
# An instance of bool is one of int too.
_JSON_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "boolean": bool,
    "integer": int,
    "number": float,
    "string": str,
    "array": list,
    "object": dict,
}


def conversation(
    messages: Sequence[Message], *, system: str | None, answer: str | None
) -> dict[str, Any] | None:
    """The conversation, with ``tools`` if it calls some; None if it has no turn at its end that answers.

    ``answer`` is that of a person: it replaces the last answer of the model. None keeps that.
    """
    steps = [step for step in session_steps(messages) if not _is_summary(step)]
    turns = _Turns()
    for step in steps:
        if isinstance(step, PromptStep):
            turns.add_prompt(step.text)
        elif not turns.add_model(step):
            return None
    found = turns.ended(answer)
    if found is None:
        return None
    tools = _tools(tool for step in steps if isinstance(step, ModelStep) for tool in step.tools)
    first = [] if not system else [_turn(SYSTEM, system)]
    return {
        "conversations": [*first, *found],
        # The readers expect text here.
        **({"tools": json.dumps(tools, ensure_ascii=False)} if tools else {}),
    }


class _Turns:
    """The turns of a conversation while it is read."""

    def __init__(self) -> None:
        self._turns: list[dict[str, str]] = []
        self._is_broken = False

    def add_prompt(self, text: str) -> None:
        last = self._turns[-1] if self._turns else None
        if last is None or last["from"] in _OF_MODEL:
            self._turns.append(_turn(HUMAN, text))
        elif last["from"] == HUMAN and last["value"] != text:
            last["value"] = f"{last['value']}\n\n{text}"
        elif last["from"] == OBSERVATION:
            self._is_broken = True

    def add_model(self, step: ModelStep) -> bool:
        """Add an answer or calls; False if a call has no result."""
        before = ""
        if self._turns and self._turns[-1]["from"] == GPT and (step.text or step.tools):
            # Two answers in a row are one.
            before = f"{self._turns.pop()['value']}\n\n"
        if not step.tools:
            if step.text:
                self._turns.append(_turn(GPT, f"{before}{_thought(step.reasoning)}{step.text}"))
            return True
        if any(tool.result is None for tool in step.tools):
            return False
        thought = "\n\n".join(filter(None, (before.strip(), step.reasoning, step.text.strip())))
        calls = [{"name": tool.name, "arguments": tool.arguments} for tool in step.tools]
        results = [tool.result or "" for tool in step.tools]
        is_one = len(calls) == 1
        self._turns.append(_turn(CALL, _thought(thought) + _json(calls[0] if is_one else calls)))
        self._turns.append(_turn(OBSERVATION, results[0] if is_one else _json(results)))
        return True

    def ended(self, answer: str | None) -> list[dict[str, str]] | None:
        """The turns with the answer of a person at their end; None if they are no conversation."""
        if answer is not None and self._turns:
            if self._turns[-1]["from"] == GPT:
                self._turns.pop()
            self._turns.append(_turn(GPT, answer))
        is_complete = bool(self._turns) and self._turns[0]["from"] == HUMAN and self._turns[-1]["from"] == GPT
        return self._turns if is_complete and not self._is_broken else None


def _is_summary(step: PromptStep | ModelStep) -> bool:
    return isinstance(step, ModelStep) and step.is_summary


def _turn(role: str, value: str) -> dict[str, str]:
    return {"from": role, "value": value}


def _thought(text: str) -> str:
    return f"<think>\n{text}\n</think>\n\n" if text else ""


def _tools(used: Iterable[ToolUse]) -> list[dict[str, Any]]:
    """The tools that were called. Their parameters are those of the calls: no session has more of them."""
    calls: dict[str, list[Mapping[str, Any]]] = {}
    for tool in used:
        calls.setdefault(tool.name, []).append(tool.arguments)
    return [{"name": name, "description": "", "parameters": _schema(given)} for name, given in calls.items()]


def _schema(calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    types: dict[str, str | None] = {}
    for arguments in calls:
        for name, value in arguments.items():
            types[name] = types.get(name) or _json_type(value)
    return {
        "type": "object",
        "properties": {name: {"type": kind} if kind else {} for name, kind in types.items()},
        "required": [name for name in types if all(name in arguments for arguments in calls)],
    }


def _json_type(value: Any) -> str | None:
    """The type of a value in JSON Schema; None for null."""
    return next((name for name, kind in _JSON_TYPES.items() if isinstance(value, kind)), None)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
