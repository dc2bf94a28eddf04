"""Messages of an opencode session: its answer, its steps and its error. Pure.

Messages have the shape of ``opencode export``, of ``GET /session/{id}/message`` and of the sum of the event
stream: a list of ``{"info": …, "parts": […]}``, oldest first (opencode 1.15 to 1.18).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from opencode_tasks.domain.answer_schema import is_repair
from opencode_tasks.domain.json_values import list_in, mapping_in, text_in, time_in
from opencode_tasks.domain.money import call_cost, usd_to_pico
from opencode_tasks.domain.records import TOKEN_COLUMNS, CostSource, Session, Step, Usage
from opencode_tasks.outcomes.reasoning_text import split_reasoning
from opencode_tasks.outcomes.token_counts import UNKNOWN, read_token_counts

Message = Mapping[str, Any]

# How opencode's errors of a denied call begin: by a rule, and by the missing answer of a person.
DENIALS = ("The user has specified a rule which prevents", "The user rejected permission")


def assistant_messages(messages: Iterable[Message]) -> list[Message]:
    """The assistant's messages, oldest first; their number is the session's turns."""
    return [m for m in messages if _info(m).get("role") == "assistant"]


def after_last_prompt(messages: Sequence[Message]) -> list[Message]:
    """The messages after the last user message, which are those of the last prompt."""
    users = [index for index, m in enumerate(messages) if _info(m).get("role") == "user"]
    return list(messages[users[-1] + 1 :]) if users else list(messages)


def prompt_text(messages: Sequence[Message]) -> str:
    """The text of the last user message; "" without one."""
    users = [m for m in messages if _info(m).get("role") == "user"]
    return "\n".join(text_in(part.get("text")) or "" for part in parts_of(users[-1], "text")) if users else ""


def repair_ids(messages: Sequence[Message]) -> set[str]:
    """The ids of the messages that answer a request for a corrected answer."""
    found: set[str] = set()
    for index, message in enumerate(messages):
        if _info(message).get("role") == "assistant" and is_repair(prompt_text(messages[:index])):
            found.add(str(_info(message).get("id")))
    return found


def has_output(messages: Iterable[Message]) -> bool:
    """Whether the model has sent text, reasoning or a tool call."""
    kinds = ("text", "reasoning", "tool")
    return any(parts_of(message, kind) for message in assistant_messages(messages) for kind in kinds)


def answer_text(messages: Iterable[Message]) -> str:
    """The joined text parts of the last assistant message with an answer.

    Summaries are skipped, and reasoning in the text is no answer.
    """
    for message in reversed(assistant_messages(messages)):
        if is_summary(message):
            continue
        shown = [part for part in parts_of(message, "text") if not part.get("ignored")]
        _, text = split_reasoning("".join(text_in(part.get("text")) or "" for part in shown))
        if text:
            return text
    return ""


def is_summary(message: Message) -> bool:
    """Whether this assistant message is the summary of a compaction."""
    info = _info(message)
    return info.get("summary") is True or info.get("agent") == "compaction"


def last_error(messages: Iterable[Message]) -> Mapping[str, Any] | None:
    """The structured error of the last assistant message; None without one."""
    found = assistant_messages(messages)
    error = _info(found[-1]).get("error") if found else None
    return mapping_in(error) if isinstance(error, Mapping) else None


def finish_reason(messages: Iterable[Message]) -> str | None:
    """The finish reason of the last assistant message, as the AI SDK names it; None if it has not ended."""
    found = assistant_messages(messages)
    return text_in(_info(found[-1]).get("finish")) if found else None


def model_ref(messages: Iterable[Message]) -> str | None:
    """``provider/model`` of the last assistant message that is no summary; None without one."""
    found = [m for m in assistant_messages(messages) if not is_summary(m)]
    return message_model(_info(found[-1])) if found else None


def message_model(info: Mapping[str, Any]) -> str:
    """``provider/model`` of an assistant message's info."""
    provider, model = text_in(info.get("providerID")), text_in(info.get("modelID"))
    return f"{provider or 'unknown'}/{model or 'unknown'}"


def has_tool_call(messages: Iterable[Message]) -> bool:
    """Whether any assistant message called a tool."""
    return any(parts_of(message, "tool") for message in assistant_messages(messages))


def is_denial(part: Message) -> bool:
    """Whether a tool part is a call that the agent's permissions denied."""
    state = mapping_in(part.get("state"))
    return state.get("status") == "error" and (text_in(state.get("error")) or "").startswith(DENIALS)


def parts_of(message: Message, kind: str) -> list[Mapping[str, Any]]:
    """The parts of one kind, in order."""
    parts = (mapping_in(part) for part in list_in(message.get("parts")))
    return [part for part in parts if part.get("type") == kind]


def steps_of(messages: Iterable[Message], session_id: str, *, unpriced: Collection[str] = ()) -> list[Step]:
    """One Step for each ``step-finish`` part.

    The field ``tokens`` of a message has only those of its last step, so the parts are read. Steps of a
    model in ``unpriced`` have no cost, although opencode reports 0. A cost of 0 is also unknown if no
    count is known, and any cost if a count had to be corrected: opencode computed it from that count.
    """
    return [
        _step(part, _info(message), session_id, unpriced, has_output=has_output)
        for message in assistant_messages(messages)
        for part, has_output in _step_ends(message)
    ]


def has_known_usage(sessions: Iterable[Session]) -> bool:
    """Whether every count of every step is known."""
    steps = [step for session in sessions for step in session.steps]
    return not any(getattr(step.usage, name) is None for step in steps for name in TOKEN_COLUMNS)


def _step_ends(message: Message) -> list[tuple[Mapping[str, Any], bool]]:
    """The ``step-finish`` parts of a message, each with whether its step has any output."""
    found: list[tuple[Mapping[str, Any], bool]] = []
    has_output = False
    for part in map(mapping_in, list_in(message.get("parts"))):
        if part.get("type") == "step-finish":
            found.append((part, has_output))
            has_output = False
        elif part.get("type") == "tool" or (part.get("type") in ("text", "reasoning") and part.get("text")):
            has_output = True
    return found


def imported_steps(messages: Iterable[Message], session_id: str) -> list[Step]:
    """The steps of a session that was run outside this library, by any opencode 1.x.

    Early versions have no tokens in their steps: a message is then one step. An export does not say
    whether a cost of 0 is a price or a missing price, so the cost of a step with tokens is unknown. A step
    that is in it twice counts once.
    """
    found: dict[str, Step] = {}
    for message in assistant_messages(messages):
        info = _info(message)
        parts = [end for end in _step_ends(message) if mapping_in(end[0].get("tokens"))]
        if not parts and mapping_in(info.get("tokens")):
            parts = [({**info, "reason": info.get("finish")}, bool(answer_text([message])))]
        steps = [_step(part, info, session_id, (), has_output=has_output) for part, has_output in parts]
        found |= {step.step_id: _without_zero(step) for step in steps}
    return [*found.values()]


def _without_zero(step: Step) -> Step:
    has_tokens = any(getattr(step.usage, name) for name in TOKEN_COLUMNS)
    if step.usage.cost_pico != 0 or not has_tokens:
        return step
    return replace(step, usage=replace(step.usage, cost_pico=None), cost_source="unpriced")


def session_of(
    session_id: str,
    messages: Sequence[Message],
    *,
    parent_id: str | None = None,
    unpriced: Collection[str] = (),
) -> Session:
    """The record of a session with these messages."""
    steps = steps_of(messages, session_id, unpriced=unpriced)
    return Session(session_id=session_id, parent_id=parent_id, messages=messages, steps=steps)


def _step(
    part: Mapping[str, Any],
    info: Mapping[str, Any],
    session_id: str,
    unpriced: Collection[str],
    *,
    has_output: bool,
) -> Step:
    ref = message_model(info)
    found = read_token_counts(mapping_in(part.get("tokens")), has_output=has_output)
    cost = _cost(part.get("cost"))
    if found.is_corrected or ref in unpriced or (cost == 0 and found == UNKNOWN):
        cost = None
    source: CostSource = "unpriced" if cost is None else "reported"
    return Step(
        step_id=str(part.get("id")),
        session_id=session_id,
        message_id=str(info.get("id")),
        model_ref=ref,
        agent=str(info.get("agent") or info.get("mode") or "unknown"),
        usage=Usage(**found.counts, cost_pico=cost),
        cost_source=source,
        finish_reason=text_in(part.get("reason")),
        ended_at=_time(info),
    )


def _cost(value: Any) -> int | None:
    try:
        return call_cost(usd_to_pico(value))
    except ValueError:
        return None


def _time(info: Mapping[str, Any]) -> datetime | None:
    times = mapping_in(info.get("time"))
    return time_in(times.get("completed")) or time_in(times.get("created"))


def _info(message: Message) -> Mapping[str, Any]:
    return mapping_in(message.get("info"))
