"""One prompt through a backend to an answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from opencode_tasks.domain.answer_schema import InvalidAnswer, repair_prompt
from opencode_tasks.domain.answer_shape import shape_of
from opencode_tasks.domain.records import Answer
from opencode_tasks.domain.text import ANSWER_IN_MESSAGE, terminal_line
from opencode_tasks.errors import AttachedFileError, OpenCodeError, StructuredOutputError
from opencode_tasks.opencode.backend import Backend, OnSession, Request
from opencode_tasks.outcomes.outcome import over_row_budget, read_outcome
from opencode_tasks.plan.answer_format import AnswerFormat

# Characters of an answer that the message of its fault repeats.
MAX_QUOTED = 100


async def ask(
    backend: Backend,
    request: Request,
    *,
    node_id: str,
    on_session: OnSession,
    answer_format: AnswerFormat | None = None,
) -> Answer:
    """Send a request and return the answer. Raises the typed errors, each with its ``attempt``.

    With a format, ``structured`` of the answer is its JSON value. If the first answer does not fit, repair
    turns in the same session name the faults; StructuredOutputError if the last answer does not fit either.
    The steps of the attempt are priced by the prices of the request.
    """
    try:
        return await _ask(backend, request, node_id, on_session, answer_format)
    except OpenCodeError as error:
        if error.attempt is not None:
            error.attempt = request.prices.priced_record(error.attempt)
        raise


async def _ask(
    backend: Backend,
    request: Request,
    node_id: str,
    on_session: OnSession,
    answer_format: AnswerFormat | None,
) -> Answer:
    answer = await _send(backend, request, node_id, on_session)
    if answer_format is None:
        return answer
    parsed = answer_format.parse(answer.text)
    for _ in range(answer_format.max_repairs):
        if not isinstance(parsed, InvalidAnswer):
            break
        check_cost(request, answer, node_id)
        prompt = repair_prompt(parsed.problems, answer_format.schema)
        repair = replace(request, prompt=prompt, session_id=answer.attempt.session_id)
        answer = await _send(backend, repair, node_id, on_session)
        parsed = answer_format.parse(answer.text)
    if isinstance(parsed, InvalidAnswer):
        message = "; ".join(parsed.problems)
        if not shape_of(answer_format.schema).is_object:
            # OUTPUT has the text of an object in its column response, and no other text.
            message += f"{ANSWER_IN_MESSAGE}{_beginning(answer.text)}"
        error = StructuredOutputError(node_id, 0, message, answer.text)
        error.attempt = answer.attempt
        raise error
    return replace(answer, structured=parsed.value)


def _beginning(text: str) -> str:
    shown = terminal_line(text, MAX_QUOTED).replace("\N{REPLACEMENT CHARACTER}", "")
    return f'"{shown}"' if shown else "(no text)"


def check_cost(request: Request, answer: Answer, node_id: str) -> None:
    """Raise BudgetExceededError if the answer has cost all that the request may cost."""
    spent_pico = sum(step.usage.cost_pico or 0 for step in answer.attempt.steps)
    if request.max_cost_pico is not None and spent_pico > request.max_cost_pico:
        error = over_row_budget(request.max_cost_pico, spent_pico, node_id=node_id, exit_code=0)
        error.attempt = answer.attempt
        raise error


async def _send(backend: Backend, request: Request, node_id: str, on_session: OnSession) -> Answer:
    result = await backend.run(request, on_session)
    answer = read_outcome(result, node_id=node_id, now=datetime.now(UTC))
    if request.session_id is None and result.attached_files < len(request.files):
        # An answer about other files than those of the row is never stored.
        error = AttachedFileError(node_id, 0, "opencode did not attach the files to the prompt")
        error.attempt, error.work, error.max_attempts = answer.attempt, answer.work, 1
        raise error
    return replace(answer, attempt=request.prices.priced_record(answer.attempt))
