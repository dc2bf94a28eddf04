"""What opencode's event stream says of its sessions, added up.

Events are those of ``GET /global/event`` (their ``payload``) and of the plugin's journal; both
have the shape ``{"type": …, "properties": …}`` (opencode 1.15 to 1.18). Times are handed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from opencode_tasks.records import InnerRetry

# What the provider's first bytes lead to. A "busy" status or our own message is no sign of life.
SIGNS_OF_LIFE = frozenset({"message.part.updated", "message.part.delta"})


@dataclass(slots=True, kw_only=True)
class SessionEvents:
    """One session as its events tell it; ``messages`` has the shape of the export."""

    session_id: str
    parent_id: str | None = None
    idle: bool = False
    error: Mapping[str, Any] | None = None
    retry: InnerRetry | None = None
    inner_retries: list[InnerRetry] = field(default_factory=list[InnerRetry])
    asked_permissions: dict[str, str] = field(default_factory=dict[str, str])
    refused: set[str] = field(default_factory=set[str])
    infos: dict[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    parts: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict[str, dict[str, Mapping[str, Any]]])

    def new_requests(self) -> list[str]:
        """The permission requests that were not handed out by this method before."""
        new = [key for key in self.asked_permissions if key not in self.refused]
        self.refused.update(new)
        return new

    @property
    def messages(self) -> list[Mapping[str, Any]]:
        """The session's messages so far, oldest first (ids ascend with time)."""
        return [
            {"info": self.infos[key], "parts": [self.parts.get(key, {})[p] for p in sorted(self.parts.get(key, {}))]}
            for key in sorted(self.infos)
        ]


class EventFold:
    """All watched sessions of one event stream.

    ``watch`` names a root session; its children are found by their parent. Other sessions are
    passed over. ``last_sign`` and ``first_sign`` give the moments (of the caller's clock) of the
    last event of any kind and of the first that shows the provider answering, children included.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, SessionEvents] = {}
        self._roots: dict[str, str] = {}
        self.first_sign: dict[str, float] = {}
        self.last_sign: dict[str, float] = {}

    def watch(self, session_id: str, at: float) -> SessionEvents:
        """Begin (or go on) to add up the events of a root session."""
        self.last_sign[session_id] = at
        self.first_sign.pop(session_id, None)
        self._roots[session_id] = session_id
        state = self._sessions.setdefault(session_id, SessionEvents(session_id=session_id))
        state.idle, state.error, state.retry = False, None, None
        return state

    def forget(self, session_id: str) -> None:
        """Drop a root session and its children."""
        for key in [key for key, root in self._roots.items() if root == session_id]:
            del self._roots[key]
            self._sessions.pop(key, None)
        self.first_sign.pop(session_id, None)
        self.last_sign.pop(session_id, None)

    def family(self, session_id: str) -> list[SessionEvents]:
        """The root session, then its children and theirs in the order they were made."""
        return [self._sessions[key] for key, root in self._roots.items() if root == session_id]

    def root_of(self, session_id: str) -> str | None:
        """The watched root that a session belongs to, None if it belongs to none."""
        return self._roots.get(session_id)

    def add(self, event: Mapping[str, Any], at: float) -> SessionEvents | None:
        """Take in one event; the session it was about, None where it is not watched."""
        kind, properties = event.get("type"), event.get("properties")
        if not isinstance(kind, str) or not isinstance(properties, Mapping):
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
        _apply(state, kind, properties)
        return state

    def _adopt(self, properties: Mapping[str, Any]) -> None:
        info: Mapping[str, Any] = properties.get("info") or {}
        parent, session_id = info.get("parentID"), info.get("id")
        if parent in self._roots and session_id and session_id not in self._roots:
            self._roots[session_id] = self._roots[parent]
            self._sessions[session_id] = SessionEvents(session_id=session_id, parent_id=parent)


def session_of_event(properties: Mapping[str, Any]) -> str | None:
    """The session that an event is about."""
    if isinstance(properties.get("sessionID"), str):
        return properties["sessionID"]
    for key in ("part", "info"):
        inner = properties.get(key)
        if isinstance(inner, Mapping) and isinstance(inner.get("sessionID"), str):
            return inner["sessionID"]
    return None


def _is_assistants(kind: str, properties: Mapping[str, Any], state: SessionEvents) -> bool:
    part: Mapping[str, Any] = properties.get("part") or {}
    message_id = properties.get("messageID") if kind == "message.part.delta" else part.get("messageID")
    info = state.infos.get(message_id or "")
    return info is not None and info.get("role") == "assistant"


def _apply(state: SessionEvents, kind: str, properties: Mapping[str, Any]) -> None:
    match kind:
        case "message.updated":
            info = properties["info"]
            state.infos[info["id"]] = info
        case "message.part.updated":
            part = properties["part"]
            state.parts.setdefault(part["messageID"], {})[part["id"]] = part
        case "message.part.removed":
            state.parts.get(properties.get("messageID", ""), {}).pop(properties.get("partID", ""), None)
        case "message.removed":
            state.infos.pop(properties.get("messageID", ""), None)
        case "session.status":
            _apply_status(state, properties.get("status") or {})
        case "session.idle":
            state.idle, state.retry = True, None
        case "session.error":
            state.error = properties.get("error") or state.error
        case "permission.asked":
            state.asked_permissions[properties["id"]] = properties.get("permission") or "unknown"
        case "question.asked":
            state.asked_permissions[properties["id"]] = "question"
        case _:
            pass


def _apply_status(state: SessionEvents, status: Mapping[str, Any]) -> None:
    state.retry = None
    if status.get("type") == "retry":
        next_ms = status.get("next")
        state.retry = InnerRetry(
            session_id=state.session_id,
            number=len(state.inner_retries) + 1,
            message=str(status.get("message") or ""),
            next_at=datetime.fromtimestamp(next_ms / 1000, UTC) if isinstance(next_ms, (int, float)) else None,
        )
        state.inner_retries.append(state.retry)
