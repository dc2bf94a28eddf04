"""Spans and metrics by OpenTelemetry's GenAI names; no-ops unless the process has an SDK configured.

Names are those of https://opentelemetry.io/docs/specs/semconv/gen-ai/. Their input tokens hold the
cached ones and their output tokens the reasoning ones, which are apart everywhere else here. What was
asked and answered is in no span.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any

from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from opencode_tasks.domain.json_values import mapping_in, time_in
from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.domain.records import Answer, AttemptRecord, Session, Usage
from opencode_tasks.domain.usage import add_usage
from opencode_tasks.errors import OpenCodeError

NAME = "opencode_tasks"
NANOSECONDS = 10**9
Carrier = Mapping[str, str]


def carrier() -> dict[str, str]:
    """The current span, to hand to another process as the parent of its spans."""
    found: dict[str, str] = {}
    propagate.inject(found)
    return found


@contextmanager
def span(name: str, parent: Carrier | None = None, **attributes: Any) -> Generator[Span]:
    """A span around what is done within; ``parent`` None is the current one. None attributes are left out."""
    context = None if parent is None else propagate.extract(parent)
    tracer = trace.get_tracer(NAME)
    known = {f"{NAME}.{key}": value for key, value in attributes.items() if value is not None}
    with tracer.start_as_current_span(name, context=context, attributes=known) as started:
        yield started


def tell_attempt(
    row: Span,
    *,
    model_ref: str,
    agent: str,
    answer: Answer | None,
    error: OpenCodeError | None,
    record: AttemptRecord,
    seconds: float,
) -> None:
    """Put on a row's span how an attempt ended and what it bought, with a span for each session."""
    provider, _, model = model_ref.partition("/")
    asked = {"gen_ai.provider.name": provider, "gen_ai.request.model": model}
    about = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": agent, **asked}
    _count(record, about | ({"error.type": error.error_type} if error else {}), seconds)
    if not row.is_recording():
        return
    bought = add_usage(step.usage for step in record.steps)
    _set(row, about | _used(bought) | {"gen_ai.conversation.id": record.session_id})
    if answer is not None:
        _set(
            row, {"gen_ai.response.finish_reasons": [answer.finish_reason] if answer.finish_reason else None}
        )
    if error is not None:
        _set(row, {"error.type": error.error_type})
        row.set_status(Status(StatusCode.ERROR, error.error_type))
    for session in record.sessions:
        _tell_session(session, asked)


def _tell_session(session: Session, asked: Mapping[str, Any]) -> None:
    """A session is told when it has ended, with the times of its steps."""
    ends = [step.ended_at for step in session.steps if step.ended_at is not None]
    claimed = _created(session) or (min(ends) if ends else None)
    told = trace.get_tracer(NAME).start_span(
        "opencode session", kind=SpanKind.CLIENT, start_time=_nanoseconds(claimed)
    )
    about = {"gen_ai.operation.name": "chat", "gen_ai.conversation.id": session.session_id, **asked}
    _set(told, about | _used(add_usage(step.usage for step in session.steps)))
    _set(told, {f"{NAME}.parent_session_id": session.parent_id, f"{NAME}.steps": len(session.steps)})
    told.end(end_time=_nanoseconds(max(ends) if ends else None))


def _created(session: Session) -> datetime | None:
    for message in session.messages:
        return time_in(mapping_in(mapping_in(message.get("info")).get("time")).get("created"))
    return None


def _nanoseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * NANOSECONDS)


def _used(usage: Usage) -> dict[str, Any]:
    given = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens)
    answered = (usage.output_tokens, usage.reasoning_tokens)
    return {
        "gen_ai.usage.input_tokens": _sum(given),
        "gen_ai.usage.output_tokens": _sum(answered),
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        f"{NAME}.reasoning_tokens": usage.reasoning_tokens,
        f"{NAME}.cost_usd": pico_to_usd(usage.cost_pico),
    }


def _sum(counts: tuple[int | None, ...]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _set(told: Span, attributes: Mapping[str, Any]) -> None:
    told.set_attributes({name: value for name, value in attributes.items() if value is not None})


def _count(record: AttemptRecord, about: Mapping[str, Any], seconds: float) -> None:
    for step in record.steps:
        used = _used(step.usage)
        for kind in ("input", "output"):
            if (count := used[f"gen_ai.usage.{kind}_tokens"]) is not None:
                _token_usage().record(count, {**about, "gen_ai.token.type": kind})
    _duration().record(seconds, about)


@cache
def _token_usage() -> metrics.Histogram:
    return metrics.get_meter(NAME).create_histogram(
        "gen_ai.client.token.usage", unit="{token}", description="Tokens of each model call, by kind."
    )


@cache
def _duration() -> metrics.Histogram:
    return metrics.get_meter(NAME).create_histogram(
        "gen_ai.client.operation.duration", unit="s", description="Seconds that an attempt at a row took."
    )
