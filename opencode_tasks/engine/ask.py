"""One prompt through a backend to an answer: the core that every way in shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from opencode_tasks.domain.answer_schema import ValidAnswer, parse_structured, repair_prompt
from opencode_tasks.domain.records import Answer
from opencode_tasks.errors import StructuredOutputError
from opencode_tasks.opencode.backend import Backend, OnSession, Request
from opencode_tasks.outcomes.outcome import over_row_budget, read_outcome


async def ask(
    backend: Backend,
    request: Request,
    *,
    node_id: str,
    on_session: OnSession,
    schema: Mapping[str, Any] | None = None,
) -> Answer:
    """The answer to a request; raises the typed errors, each with its ``attempt``.

    With a schema the answer's ``structured`` value fits it: an answer that does not gets one
    repair turn in the same session, which says what was wrong.
    """
    answer = await _once(backend, request, node_id, on_session)
    if schema is None:
        return answer
    parsed = parse_structured(answer.text, schema)
    if not isinstance(parsed, ValidAnswer):
        _check_cost(request, answer, node_id)
        repair = replace(request, prompt=repair_prompt(parsed.problems), session_id=answer.attempt.session_id)
        answer = await _once(backend, repair, node_id, on_session)
        parsed = parse_structured(answer.text, schema)
    if not isinstance(parsed, ValidAnswer):
        error = StructuredOutputError(node_id, 0, "; ".join(parsed.problems), answer.text)
        error.attempt = answer.attempt
        raise error
    return replace(answer, structured=parsed.value)


def _check_cost(request: Request, answer: Answer, node_id: str) -> None:
    """Raises BudgetExceededError where the answer has cost all that the request may."""
    spent = sum(step.usage.cost_pico or 0 for step in answer.attempt.steps)
    if request.max_cost_pico is not None and spent > request.max_cost_pico:
        error = over_row_budget(request.max_cost_pico, spent, node_id=node_id, exit_code=0)
        error.attempt = answer.attempt
        raise error


async def _once(backend: Backend, request: Request, node_id: str, on_session: OnSession) -> Answer:
    result = await backend.run(request, on_session)
    return read_outcome(result, node_id=node_id, now=datetime.now(UTC))
