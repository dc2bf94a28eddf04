"""State of opencode sessions, computed from opencode's event stream. Pure.

Events are those of ``GET /event`` and of the plugin's journal. Both have the shape
``{"type": …, "properties": …}`` (opencode 1.15 to 1.18). Times are arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opencode_tasks.domain.json_values import mapping_in, text_in, time_in
from opencode_tasks.domain.records import InnerRetry

# The tool that starts a sub-agent. It answers in a session of its own, whose provider owes signs of life.
SUB_AGENT = "task"
# Events that the first bytes of the provider cause. A "busy" status or a user message is not one.
SIGNS_OF_LIFE = frozenset({"message.part.updated", "message.part.delta"})

Parts = dict[str, Mapping[str, Any]]


@dataclass(slots=True, kw_only=True)
class SessionEvents:
    """State of one session after the events so far. ``messages`` has the shape of the export.

    ``lost_calls`` is the number of its model calls that may have cost something and that no step reports.
    """

    session_id: str
    parent_id: str | None = None
    idle: bool = False
    error: Mapping[str, Any] | None = None
    retry: InnerRetry | None = None
    lost_calls: int = 0
    inner_retries: list[InnerRetry] = field(default_factory=list[InnerRetry])
    asked_permissions: dict[str, str] = field(default_factory=dict[str, str])
    refused: set[str] = field(default_factory=set[str])
    infos: dict[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    parts: dict[str, Parts] = field(default_factory=dict[str, Parts])

    def new_requests(self) -> list[str]:
        """The permission requests that this method has not returned before."""
        new = [key for key in self.asked_permissions if key not in self.refused]
        self.refused.update(new)
        return new

    @property
    def messages(self) -> list[Mapping[str, Any]]:
        """The messages of the session so far, oldest first (ids ascend with time)."""
        return [
            {"info": info, "parts": [part for _, part in sorted(self.parts.get(key, {}).items(), key=_by_id)]}
            for key, info in sorted(self.infos.items(), key=_by_id)
        ]


class EventFold:
    """All watched sessions of one event stream.

    ``watch`` adds a root session; its children are found by their parent. Events of other sessions are
    ignored. By root session and in the time of the caller's clock, ``last_sign`` is the time of the last
    event of any kind, and ``first_sign`` that of the first event that the provider's answer caused.
    ``tool_since`` is the time since which a tool runs.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, SessionEvents] = {}
        self._roots: dict[str, str] = {}
        self.first_sign: dict[str, float] = {}
        self.last_sign: dict[str, float] = {}
        # By root session, the parts of the tools that run, with their start.
        self._tools: dict[str, dict[str, float]] = {}

    def watch(self, session_id: str, at: float) -> SessionEvents:
        """Start or restart to collect the events of a root session.

        What an earlier prompt asked for, and how it ended, is forgotten. Messages and retries stay.
        """
        self.last_sign[session_id] = at
        self.first_sign.pop(session_id, None)
        self._tools.pop(session_id, None)
        self._roots[session_id] = session_id
        state = self._sessions.setdefault(session_id, SessionEvents(session_id=session_id))
        state.idle, state.error, state.retry = False, None, None
        for member in self.family(session_id):
            member.asked_permissions.clear()
            member.refused.clear()
        return state

    def forget(self, session_id: str) -> None:
        """Drop a root session and its children."""
        for key in [key for key, root in self._roots.items() if root == session_id]:
            del self._roots[key]
            self._sessions.pop(key, None)
        self.first_sign.pop(session_id, None)
        self.last_sign.pop(session_id, None)
        self._tools.pop(session_id, None)

    def tool_since(self, session_id: str) -> float | None:
        """Start of the tool of a root session, or of its children, that runs longest; None if none runs."""
        return min(self._tools.get(session_id, {}).values(), default=None)

    def family(self, session_id: str) -> list[SessionEvents]:
        """The root session, then its descendants in the order of their creation."""
        return [self._sessions[key] for key, root in self._roots.items() if root == session_id]

    def root_of(self, session_id: str) -> str | None:
        """The watched root session of a session; None without one."""
        return self._roots.get(session_id)

    def add(self, event: Mapping[str, Any], at: float) -> SessionEvents | None:
        """Process one event; return its session, None if that is not watched.

        Fields that are missing or malformed are ignored.
        """
        kind, properties = text_in(event.get("type")), mapping_in(event.get("properties"))
        if kind is None:
            return None
        if kind == "session.created":
            self._adopt(properties)
        session_id = session_of_event(properties)
        state = self._sessions.get(session_id or "")
        if state is None:
            return None
        root = self._roots[state.session_id]
        self.last_sign[root] = at
        if kind in SIGNS_OF_LIFE and _is_assistants(kind, properties, state):
            self.first_sign.setdefault(root, at)
        if kind == "message.part.updated":
            self._note_tool(root, mapping_in(properties.get("part")), at)
        _apply(state, kind, properties)
        return state

    def add_alive(self, session_id: str | None, at: float) -> None:
        """Process a sign of life of the provider that is no event, such as a keep-alive comment.

        A session that is not watched is ignored.
        """
        root = self._roots.get(session_id or "")
        if root is not None:
            self.last_sign[root] = at
            self.first_sign.setdefault(root, at)

    def add_lost_call(self, session_id: str | None) -> None:
        """Count a model call that failed, is repeated by opencode, and may have cost something."""
        if (state := self._sessions.get(session_id or "")) is not None:
            state.lost_calls += 1

    def _note_tool(self, root: str, part: Mapping[str, Any], at: float) -> None:
        part_id = text_in(part.get("id"))
        if part.get("type") != "tool" or part.get("tool") == SUB_AGENT or part_id is None:
            return
        running = self._tools.setdefault(root, {})
        if mapping_in(part.get("state")).get("status") == "running":
            running.setdefault(part_id, at)
        else:
            running.pop(part_id, None)

    def _adopt(self, properties: Mapping[str, Any]) -> None:
        info = mapping_in(properties.get("info"))
        parent, session_id = text_in(info.get("parentID")), text_in(info.get("id"))
        if parent in self._roots and session_id is not None and session_id not in self._roots:
            self._roots[session_id] = self._roots[parent]
            self._sessions[session_id] = SessionEvents(session_id=session_id, parent_id=parent)


def session_of_event(properties: Mapping[str, Any]) -> str | None:
    """The session id of an event; None without one."""
    holders = (properties, mapping_in(properties.get("part")), mapping_in(properties.get("info")))
    return next(filter(None, (text_in(holder.get("sessionID")) for holder in holders)), None)


def _by_id(item: tuple[str, Mapping[str, Any]]) -> str:
    return item[0]


def _is_assistants(kind: str, properties: Mapping[str, Any], state: SessionEvents) -> bool:
    holder = properties if kind == "message.part.delta" else mapping_in(properties.get("part"))
    info = state.infos.get(text_in(holder.get("messageID")) or "")
    return info is not None and info.get("role") == "assistant"


def _apply(state: SessionEvents, kind: str, properties: Mapping[str, Any]) -> None:
    match kind:
        case "message.updated":
            _put_message(state, mapping_in(properties.get("info")))
        case "message.part.updated":
            _put_part(state, mapping_in(properties.get("part")))
        case "message.part.removed":
            parts = state.parts.get(text_in(properties.get("messageID")) or "", {})
            parts.pop(text_in(properties.get("partID")) or "", None)
        case "message.removed":
            state.infos.pop(text_in(properties.get("messageID")) or "", None)
        case "session.status":
            _apply_status(state, mapping_in(properties.get("status")))
        case "session.idle":
            state.idle, state.retry = True, None
        case "session.error":
            state.error = mapping_in(properties.get("error")) or state.error
        case "permission.asked" | "question.asked":
            asked = "question" if kind == "question.asked" else text_in(properties.get("permission"))
            if (request_id := text_in(properties.get("id"))) is not None:
                state.asked_permissions[request_id] = asked or "unknown"
        case _:
            pass


def _put_message(state: SessionEvents, info: Mapping[str, Any]) -> None:
    if (message_id := text_in(info.get("id"))) is not None:
        state.infos[message_id] = info


def _put_part(state: SessionEvents, part: Mapping[str, Any]) -> None:
    part_id, message_id = text_in(part.get("id")), text_in(part.get("messageID"))
    if part_id is not None and message_id is not None:
        state.parts.setdefault(message_id, {})[part_id] = part


def _apply_status(state: SessionEvents, status: Mapping[str, Any]) -> None:
    state.retry = None
    if status.get("type") == "retry":
        state.retry = InnerRetry(
            session_id=state.session_id,
            number=len(state.inner_retries) + 1,
            message=str(status.get("message") or ""),
            next_at=time_in(status.get("next")),
        )
        state.inner_retries.append(state.retry)
