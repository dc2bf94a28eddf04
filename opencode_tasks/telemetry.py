"""Spans and metrics of OpenTelemetry with GenAI names; without effect if the process configures no SDK.

The names are those of https://opentelemetry.io/docs/specs/semconv/gen-ai/. Their input tokens include the
cached tokens and their output tokens the reasoning tokens, which are separate everywhere else in this
package. Spans contain no prompts and no answers.
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
from opencode_tasks.domain.usage import add_usage, total_of
from opencode_tasks.errors import OpenCodeError

NAME = "opencode_tasks"
NANOSECONDS = 10**9
Carrier = Mapping[str, str]


def carrier() -> dict[str, str]:
    """The current span in a form that another process can use as the parent of its spans."""
    found: dict[str, str] = {}
    propagate.inject(found)
    return found


@contextmanager
def span(name: str, parent: Carrier | None = None, **attributes: Any) -> Generator[Span]:
    """A span around the block; ``parent`` None means the current span. Attributes of None are left out."""
    context = None if parent is None else propagate.extract(parent)
    tracer = trace.get_tracer(NAME)
    known = {f"{NAME}.{key}": value for key, value in attributes.items() if value is not None}
    with tracer.start_as_current_span(name, context=context, attributes=known) as started:
        yield started


def record_attempt(
    row: Span,
    *,
    model_ref: str,
    agent: str,
    answer: Answer | None,
    error: OpenCodeError | None,
    record: AttemptRecord,
    seconds: float,
) -> None:
    """Record the end and the usage of an attempt on the span of its row, with a span for each session."""
    provider, _, model = model_ref.partition("/")
    asked = {"gen_ai.provider.name": provider, "gen_ai.request.model": model}
    about = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": agent, **asked}
    _count(record, about | ({"error.type": error.error_type} if error else {}), seconds)
    if not row.is_recording():
        return
    usage = add_usage(step.usage for step in record.steps)
    _set(row, about | _used(usage) | {"gen_ai.conversation.id": record.session_id})
    if answer is not None:
        _set(
            row, {"gen_ai.response.finish_reasons": [answer.finish_reason] if answer.finish_reason else None}
        )
    if error is not None:
        _set(row, {"error.type": error.error_type})
        row.set_status(Status(StatusCode.ERROR, error.error_type))
    for session in record.sessions:
        _record_session(session, asked)


def _record_session(session: Session, asked: Mapping[str, Any]) -> None:
    """Create the span of an ended session, with the times of its steps."""
    ends = [step.ended_at for step in session.steps if step.ended_at is not None]
    start = _created(session) or (min(ends) if ends else None)
    created = trace.get_tracer(NAME).start_span(
        "opencode session", kind=SpanKind.CLIENT, start_time=_nanoseconds(start)
    )
    about = {"gen_ai.operation.name": "chat", "gen_ai.conversation.id": session.session_id, **asked}
    _set(created, about | _used(add_usage(step.usage for step in session.steps)))
    _set(created, {f"{NAME}.parent_session_id": session.parent_id, f"{NAME}.steps": len(session.steps)})
    created.end(end_time=_nanoseconds(max(ends) if ends else None))


def _created(session: Session) -> datetime | None:
    for message in session.messages:
        return time_in(mapping_in(mapping_in(message.get("info")).get("time")).get("created"))
    return None


def _nanoseconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp() * NANOSECONDS)


def _used(usage: Usage) -> dict[str, Any]:
    sent = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens)
    received = (usage.output_tokens, usage.reasoning_tokens)
    return {
        "gen_ai.usage.input_tokens": total_of(sent),
        "gen_ai.usage.output_tokens": total_of(received),
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        f"{NAME}.reasoning_tokens": usage.reasoning_tokens,
        f"{NAME}.cost_usd": pico_to_usd(usage.cost_pico),
    }


def _set(target: Span, attributes: Mapping[str, Any]) -> None:
    target.set_attributes({name: value for name, value in attributes.items() if value is not None})


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
