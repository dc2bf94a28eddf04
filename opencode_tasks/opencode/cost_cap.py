"""Ending a session that has cost more than it may and would go on. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from opencode_tasks.domain.json_values import list_in, mapping_in
from opencode_tasks.outcomes.events import SessionEvents
from opencode_tasks.outcomes.messages import steps_of
from opencode_tasks.outcomes.session_result import Stopped


def overspent(
    family: Sequence[SessionEvents], cap_pico: int | None, unpriced: Collection[str]
) -> Stopped | None:
    """The reason to end a session (root first, then its children); None where it may go on.

    A session whose last step is its answer is left: it is bought already.
    """
    if cap_pico is None or not family:
        return None
    steps = [
        step for state in family for step in steps_of(state.messages, state.session_id, unpriced=unpriced)
    ]
    spent = sum(step.usage.cost_pico or 0 for step in steps)
    if spent <= cap_pico or _has_ended(family[0]):
        return None
    return Stopped(cap_pico=cap_pico, spent_pico=spent)


def _has_ended(root: SessionEvents) -> bool:
    parts = [mapping_in(part) for message in root.messages for part in list_in(message.get("parts"))]
    marks = [part for part in parts if part.get("type") in ("step-start", "step-finish")]
    last = mapping_in(marks[-1] if marks else None)
    return last.get("type") == "step-finish" and last.get("reason") != "tool-calls"
