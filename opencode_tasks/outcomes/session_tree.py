"""A session with the sessions of its sub-agents, and the usage of their model calls. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opencode_tasks.outcomes.session_messages import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTree:
    """A session.

    - ``messages``: opencode's messages, oldest first; empty if they are not known or were removed.
    - ``usage``: token counts and ``cost_pico`` of each model call, by the id of its step.
    - ``children``: the sessions of its sub-agents.
    - ``is_usage_known``: False if the provider may charge for a call that is not in ``usage``.
    """

    session_id: str
    messages: Sequence[Message]
    usage: Mapping[str, Mapping[str, Any]]
    children: Sequence[SessionTree]
    is_usage_known: bool

    def usages(self) -> Iterator[Mapping[str, Any]]:
        """The usage of all model calls, those of sub-agents included."""
        yield from self.usage.values()
        for child in self.children:
            yield from child.usages()


def session_trees(
    sessions: Sequence[Mapping[str, Any]], usage: Sequence[Mapping[str, Any]], root_ids: Sequence[str]
) -> dict[str, SessionTree]:
    """The trees of these roots by their ids; a root that is not among ``sessions`` is left out.

    ``sessions`` have ``session_id``, ``parent_id``, ``messages`` and ``usage_known``, lines of ``usage`` have
    ``session_id``, ``step_id``, the token columns and ``cost_pico``.
    """
    by_id = {one["session_id"]: one for one in sessions}
    children: dict[str, list[str]] = {}
    for one in sessions:
        if one["parent_id"] is not None:
            children.setdefault(one["parent_id"], []).append(one["session_id"])
    steps: dict[str, dict[str, Mapping[str, Any]]] = {}
    for line in usage:
        steps.setdefault(line["session_id"], {})[line["step_id"]] = line

    def tree(session_id: str, above: frozenset[str]) -> SessionTree:
        found = by_id[session_id]
        path = above | {session_id}
        return SessionTree(
            session_id=session_id,
            messages=found["messages"] or [],
            usage=steps.get(session_id, {}),
            # A ledger with a circle of parents must not end the export.
            children=[tree(one, path) for one in children.get(session_id, []) if one not in path],
            is_usage_known=found["usage_known"],
        )

    return {root: tree(root, frozenset()) for root in root_ids if root in by_id}
