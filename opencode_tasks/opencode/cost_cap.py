"""Limits of a session on a server without the plugin, which enforces them more exactly. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from opencode_tasks.domain.cost import PriceBook
from opencode_tasks.domain.json_values import list_in, mapping_in, text_in
from opencode_tasks.domain.records import Step
from opencode_tasks.opencode.backend import Request
from opencode_tasks.outcomes.backend_result import Stopped
from opencode_tasks.outcomes.event_stream import SessionEvents
from opencode_tasks.outcomes.session_messages import after_last_prompt, assistant_messages, parts_of, steps_of

# opencode sends a further request after these, with or without a tool call.
REPEATED = frozenset({"unknown", "tool-calls"})


def overspent(family: Sequence[SessionEvents], request: Request, unpriced: Collection[str]) -> Stopped | None:
    """The reason to end a session (root first, then its children); None if it may continue.

    A session whose last step is its answer is not ended: the answer is paid for. A step of unknown usage
    counts by the cost of a call with the longest input.
    """
    cap_pico = request.max_cost_pico
    if cap_pico is None or not family:
        return None
    steps = [
        step for state in family for step in steps_of(state.messages, state.session_id, unpriced=unpriced)
    ]
    spent = sum(_most(step, request.prices) for step in steps)
    if spent <= cap_pico or _has_ended(family[0]):
        return None
    return Stopped(cap_pico=cap_pico, spent_pico=spent)


def repeated(family: Sequence[SessionEvents]) -> Stopped | None:
    """The reason to end a session that repeats a request after a step without a tool call.

    opencode repeats a request after a finish reason that it does not know. None if no session of the
    family does.
    """
    for state in family:
        messages = assistant_messages(after_last_prompt(state.messages))
        for step, _ in pairwise(m for m in messages if parts_of(m, "step-start")):
            finish = text_in(mapping_in(step.get("info")).get("finish"))
            if finish in REPEATED and not parts_of(step, "tool"):
                return Stopped(finish=finish)
    return None


def _most(step: Step, prices: PriceBook) -> int:
    cost, price = prices.priced(step).usage.cost_pico, prices.configured.get(step.model_ref)
    if cost is not None:
        return cost
    return price.max_call_cost() if price is not None else 0


def _has_ended(root: SessionEvents) -> bool:
    parts = [mapping_in(part) for message in root.messages for part in list_in(message.get("parts"))]
    marks = [part for part in parts if part.get("type") in ("step-start", "step-finish")]
    last = mapping_in(marks[-1] if marks else None)
    return last.get("type") == "step-finish" and last.get("reason") != "tool-calls"
