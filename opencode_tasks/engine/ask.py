"""One prompt through a backend to an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from opencode_tasks.domain.answer_schema import ValidAnswer, parse_structured, repair_prompt
from opencode_tasks.domain.records import Answer
from opencode_tasks.errors import OpenCodeError, StructuredOutputError
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
    """Send a request and return the answer. Raises the typed errors, each with its ``attempt``.

    With a schema, ``structured`` of the answer is a value that fits it. If the first answer does not
    fit, one repair turn in the same session names the faults; StructuredOutputError if that fails too.
    The steps of the attempt are priced by the prices of the request.
    """
    try:
        return await _ask(backend, request, node_id, on_session, schema)
    except OpenCodeError as error:
        if error.attempt is not None:
            error.attempt = request.prices.priced_record(error.attempt)
        raise


async def _ask(
    backend: Backend,
    request: Request,
    node_id: str,
    on_session: OnSession,
    schema: Mapping[str, Any] | None,
) -> Answer:
    answer = await _send(backend, request, node_id, on_session)
    if schema is None:
        return answer
    parsed = parse_structured(answer.text, schema)
    if not isinstance(parsed, ValidAnswer):
        _check_cost(request, answer, node_id)
        repair = replace(request, prompt=repair_prompt(parsed.problems), session_id=answer.attempt.session_id)
        answer = await _send(backend, repair, node_id, on_session)
        parsed = parse_structured(answer.text, schema)
    if not isinstance(parsed, ValidAnswer):
        error = StructuredOutputError(node_id, 0, "; ".join(parsed.problems), answer.text)
        error.attempt = answer.attempt
        raise error
    return replace(answer, structured=parsed.value)


def _check_cost(request: Request, answer: Answer, node_id: str) -> None:
    """Raise BudgetExceededError if the answer has cost all that the request may cost."""
    spent_pico = sum(step.usage.cost_pico or 0 for step in answer.attempt.steps)
    if request.max_cost_pico is not None and spent_pico > request.max_cost_pico:
        error = over_row_budget(request.max_cost_pico, spent_pico, node_id=node_id, exit_code=0)
        error.attempt = answer.attempt
        raise error


async def _send(backend: Backend, request: Request, node_id: str, on_session: OnSession) -> Answer:
    result = await backend.run(request, on_session)
    answer = read_outcome(result, node_id=node_id, now=datetime.now(UTC))
    return replace(answer, attempt=request.prices.priced_record(answer.attempt))
