"""From the result of a request to an answer or a typed error. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from opencode_tasks.domain.json_values import mapping_in, text_in
from opencode_tasks.domain.money import format_usd, pico_to_usd
from opencode_tasks.domain.records import TOKEN_COLUMNS, Answer, AttemptRecord, InnerRetry
from opencode_tasks.domain.work import WorkResult
from opencode_tasks.errors import (
    BudgetExceededError,
    Clock,
    OpenCodeError,
    OpenCodeTimeoutError,
    PermissionDeniedError,
    RateLimitError,
    SandboxLimitError,
    ServerError,
    UnknownOpenCodeError,
)
from opencode_tasks.outcomes.backend_result import SessionResult, Stopped
from opencode_tasks.outcomes.classify import Context, classify, classify_finish, is_before_request
from opencode_tasks.outcomes.error_message import error_message
from opencode_tasks.outcomes.failure import Failure, read_failure
from opencode_tasks.outcomes.plugin_refusal import Refusal, error_of, read_refusal
from opencode_tasks.outcomes.reasoning_text import split_reasoning
from opencode_tasks.outcomes.session_messages import (
    after_last_prompt,
    answer_text,
    assistant_messages,
    finish_reason,
    has_output,
    has_tool_call,
    is_denial,
    last_error,
    model_ref,
    parts_of,
    prompt_text,
)

ONLY_REASONING = (
    "the model sent reasoning and no text; raise limit.output of the model in the opencode config, "
    "or choose a --variant with less reasoning"
)
KILLED = "opencode ended before the answer was complete"
MAX_EMPTY_ANSWERS = 2
RATE_WORDS = ("rate limit", "too many requests", "429", "quota")
CLOCK_MESSAGES: Mapping[Clock, tuple[str, str]] = {
    "first_event": ("the provider sent nothing within", "--first-event-timeout"),
    "stall": ("the provider stopped sending for", "--stall-timeout"),
    "tool": ("a tool did not end within", "--tool-timeout"),
    "total": ("the answer was not complete within", "--timeout"),
}
# opencode's finish reason of a step that calls tools.
CALLS_TOOLS = "tool-calls"
NEVER_SENT = ("unable to connect", "was there a typo in the url", "econnrefused", "connection refused")


def read_outcome(result: SessionResult, *, node_id: str, now: datetime) -> Answer:
    """The answer in ``result``. Raises the typed error, with its ``attempt``, if there is none."""
    result = replace(result, stream_text=split_reasoning(result.stream_text)[1])
    refusal = read_refusal(last_error(_messages(result)) or result.error)
    if refusal is not None:
        result = _without_refused(result)
    messages = _messages(result)
    text = answer_text(messages)
    error = _fault(result, refusal, messages, text, node_id=node_id, now=now)
    if error is not None:
        if refusal is not None:
            is_known = _is_reported(result, refusal)
        else:
            is_known = _is_usage_complete(messages, result.error) and not _is_killed(result, messages)
        error.attempt = record_of(result, usage_known=result.usage_known and is_known)
        error.work = work_of(result)
        raise error
    return Answer(
        text=text or result.stream_text,
        structured=None,
        finish_reason=(refusal and refusal.finish) or finish_reason(messages),
        turns=len(assistant_messages(result.sessions[0].messages)) if result.sessions else 0,
        model_ref=model_ref(messages) or "unknown/unknown",
        attempt=record_of(result, usage_known=result.usage_known),
        work=work_of(result),
    )


def work_of(result: SessionResult) -> WorkResult:
    """The tools that the agent and its sub-agents called, and those that it was denied."""
    called, denied = dict[str, None](), dict.fromkeys(result.denied_tools)
    for session in result.sessions:
        for message in assistant_messages(session.messages):
            for part in parts_of(message, "tool"):
                name = text_in(part.get("tool")) or "unknown"
                called[name] = None
                if is_denial(part):
                    denied[name] = None
    return WorkResult(tools_called=json.dumps([*called]), tools_denied=json.dumps([*denied]))


def record_of(result: SessionResult, *, usage_known: bool) -> AttemptRecord:
    """The record of the request, for the ledger."""
    return AttemptRecord(
        session_id=result.session_id,
        sessions=result.sessions,
        inner_retries=result.inner_retries,
        usage_known=usage_known,
        exit_code=result.exit_code,
        stderr=result.stderr,
        events=result.events,
        notes=result.notes,
        relay=result.relay,
    )


def _messages(result: SessionResult) -> list[Mapping[str, Any]]:
    return after_last_prompt(result.sessions[0].messages) if result.sessions else []


def _without_refused(result: SessionResult) -> SessionResult:
    """The result without the message of the request that was not sent."""
    if not result.sessions or last_error(result.sessions[0].messages) is None:
        return replace(result, error=None)
    root, *children = result.sessions
    return replace(result, error=None, sessions=[replace(root, messages=root.messages[:-1]), *children])


def _fault(
    result: SessionResult,
    refusal: Refusal | None,
    messages: Sequence[Mapping[str, Any]],
    text: str,
    *,
    node_id: str,
    now: datetime,
) -> OpenCodeError | None:
    code = result.exit_code
    if result.stopped is not None:
        return _stopped(result.stopped, node_id=node_id, now=now, exit_code=code)
    if result.session_id is None:
        message = "no session id in opencode output"
        return UnknownOpenCodeError(node_id, -1, message, result.stderr)
    if refusal is not None:
        # Text of an earlier step is not the answer of a step that ended abnormally.
        last_text = answer_text(messages[-1:]) if messages else result.stream_text
        return _refused(refusal, last_text, node_id=node_id, exit_code=code)
    error = last_error(messages) or result.error
    # A refusal ends opencode's loop: what the model said before it asked for the tool is not its answer.
    is_cut = finish_reason(messages) == CALLS_TOOLS
    if result.denied_tools and (not text or is_cut or _is_abort(error)):
        tools = ", ".join(sorted(set(result.denied_tools)))
        message = f"the agent asked for {tools}, which its config does not allow"
        return PermissionDeniedError(node_id, code, message, result.denied_tools)
    if error is not None:
        context = Context(
            node_id=node_id,
            now=now,
            exit_code=code,
            stderr=result.stderr,
            partial_text=text,
            prompt=prompt_text(result.sessions[0].messages) if result.sessions else "",
        )
        return classify(read_failure(error), context)
    if result.fault:
        return UnknownOpenCodeError(node_id, code, result.fault, result.stderr)
    if _is_killed(result, messages):
        return UnknownOpenCodeError(node_id, code, KILLED, result.stderr)
    ended = classify_finish(finish_reason(messages), node_id=node_id, exit_code=code, partial_text=text)
    if ended is not None:
        return ended
    if not text and not result.stream_text and not has_tool_call(messages):
        return _empty(result, messages, node_id)
    return None


def _is_killed(result: SessionResult, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the process of opencode ended in the middle of its work, without an error of its own."""
    has_error = (last_error(messages) or result.error) is not None
    is_cut = bool(messages) and finish_reason(messages) in (None, CALLS_TOOLS)
    return result.exit_code != 0 and result.stopped is None and is_cut and not has_error


def _empty(result: SessionResult, messages: Sequence[Mapping[str, Any]], node_id: str) -> OpenCodeError:
    """The error of a request without an error, a tool call or a text."""
    first_line = error_message(result.stderr.partition("\n")[0], is_internal=True)
    is_reasoning = has_output(messages)
    message = "empty response" if assistant_messages(messages) else first_line or "no answer"
    if is_reasoning:
        message = f"{message}: {ONLY_REASONING}"
    empty = UnknownOpenCodeError(node_id, result.exit_code, message, result.stderr)
    if assistant_messages(messages):
        # The provider ended the answer: the next one costs the same, and is rarely different.
        empty.max_attempts = 1 if is_reasoning else MAX_EMPTY_ANSWERS
    return empty


def _refused(refusal: Refusal, text: str, *, node_id: str, exit_code: int) -> OpenCodeError | None:
    if refusal.kind == "cost" and refusal.model:
        limit_usd, spent_usd = pico_to_usd(refusal.limit_pico), pico_to_usd(refusal.spent_pico)
        message = (
            f"no price is known for {refusal.model}, so the cost limit of the row cannot be enforced; add "
            "the price to the opencode config"
        )
        return BudgetExceededError(node_id, exit_code, message, limit_usd, spent_usd)
    if refusal.kind == "cost":
        return over_row_budget(refusal.limit_pico, refusal.spent_pico, node_id=node_id, exit_code=exit_code)
    return error_of(refusal, text, node_id=node_id, exit_code=exit_code)


def _stopped(stopped: Stopped, *, node_id: str, now: datetime, exit_code: int) -> OpenCodeError:
    if stopped.wait is not None:
        return _long_wait(stopped.wait, node_id=node_id, now=now, exit_code=exit_code)
    if stopped.cap_pico is not None and stopped.spent_pico is not None:
        return over_row_budget(stopped.cap_pico, stopped.spent_pico, node_id=node_id, exit_code=exit_code)
    if stopped.limit is not None:
        return SandboxLimitError(node_id, exit_code, stopped.limit)
    if stopped.finish is not None:
        message = f"the model's answer ended abnormally ({stopped.finish}), and opencode repeated the request"
        return ServerError(node_id, exit_code, message)
    clock = stopped.clock or "total"
    what, option = CLOCK_MESSAGES[clock]
    message = f"{what} {stopped.seconds:g} s ({option} {stopped.seconds:g})"
    return OpenCodeTimeoutError(node_id, exit_code, message, clock, stopped.seconds)


def over_row_budget(cap_pico: int, spent_pico: int, *, node_id: str, exit_code: int) -> BudgetExceededError:
    """The error of a row that exceeds its cost limit."""
    message = f"the row had cost {format_usd(spent_pico)}; at most {format_usd(cap_pico)} was allowed"
    return BudgetExceededError(node_id, exit_code, message, pico_to_usd(cap_pico), pico_to_usd(spent_pico))


def _long_wait(wait: InnerRetry, *, node_id: str, now: datetime, exit_code: int) -> OpenCodeError:
    """Error of a wait that opencode started. It has the message of the provider, but no status."""
    message = error_message(wait.message, is_internal=True)
    if any(words in wait.message.lower() for words in RATE_WORDS):
        return RateLimitError(node_id, wait.next_at or now, message, exit_code)
    after = max(0.0, (wait.next_at - now).total_seconds()) if wait.next_at else None
    return ServerError(node_id, exit_code, message, after)


def _is_abort(error: Mapping[str, Any] | None) -> bool:
    return error is not None and error.get("name") == "MessageAbortedError"


def _is_usage_complete(messages: Sequence[Mapping[str, Any]], error: Mapping[str, Any] | None) -> bool:
    """Whether the failed request cannot have cost more than the steps that are reported."""
    raw = last_error(messages) or error
    if raw is None:
        return True
    failure: Failure = read_failure(raw)
    if failure.in_stream:
        # A stream may be charged up to the failure.
        paid = failure.has_output or has_output(messages) or _has_usage(failure.body)
        return bool(failure.body) and not paid
    if failure.status == 0:
        return any(words in failure.reason.lower() for words in NEVER_SENT)
    if failure.status is not None or is_before_request(failure):
        return True
    # The rest are errors of opencode after the provider began to answer.
    last = assistant_messages(messages)[-1:]
    return not last or bool(parts_of(last[0], "step-finish"))


def _has_usage(body: str) -> bool:
    """Whether the error event of a stream reports tokens."""
    try:
        event = mapping_in(json.loads(body))
    except (ValueError, RecursionError):
        return False
    usage = mapping_in(event.get("usage") or mapping_in(event.get("response")).get("usage"))
    return any(isinstance(count, int | float) and count > 0 for count in usage.values())


def _is_reported(result: SessionResult, refusal: Refusal) -> bool:
    """Whether the step before the refused request reports all of its usage; a cut stream does not."""
    if refusal.kind != "end":
        return True
    steps = result.sessions[0].steps if result.sessions else ()
    has_tokens = bool(steps) and any(getattr(steps[-1].usage, name) for name in TOKEN_COLUMNS)
    return has_tokens and not refusal.is_cut
