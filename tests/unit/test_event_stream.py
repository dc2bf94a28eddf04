"""The event stream, added up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.outcomes.event_stream import EventFold, SessionEvents, session_of_event

NEXT_MS = 1_777_636_800_000


def event(kind: str, **properties: Any) -> dict[str, Any]:
    return {"type": kind, "properties": properties}


def created(session_id: str, parent: str | None) -> dict[str, Any]:
    return event("session.created", sessionID=session_id, info={"id": session_id, "parentID": parent})


def message(session_id: str, message_id: str, role: str = "assistant", **info: Any) -> dict[str, Any]:
    whole = {"id": message_id, "sessionID": session_id, "role": role, **info}
    return event("message.updated", info=whole)


def part(session_id: str, message_id: str, part_id: str, text: str = "x") -> dict[str, Any]:
    whole = {"id": part_id, "messageID": message_id, "sessionID": session_id, "type": "text", "text": text}
    return event("message.part.updated", part=whole)


def delta(session_id: str, message_id: str) -> dict[str, Any]:
    return event("message.part.delta", sessionID=session_id, messageID=message_id, delta="x")


def status(session_id: str, **fields: Any) -> dict[str, Any]:
    return event("session.status", sessionID=session_id, status=fields)


def folded(*events: dict[str, Any]) -> tuple[EventFold, SessionEvents]:
    """Events 1, 2, … seconds after ``ses_1`` was watched at 0."""
    fold = EventFold()
    state = fold.watch("ses_1", 0.0)
    for number, one in enumerate(events, 1):
        fold.add(one, float(number))
    return fold, state


def test_children_and_their_children_are_adopted() -> None:
    fold, _ = folded(
        created("ses_2", "ses_1"),
        created("ses_3", "ses_2"),
        created("ses_9", None),
        created("ses_8", "ses_7"),
    )
    assert [state.session_id for state in fold.family("ses_1")] == ["ses_1", "ses_2", "ses_3"]
    assert [state.parent_id for state in fold.family("ses_1")] == [None, "ses_1", "ses_2"]
    assert fold.root_of("ses_3") == "ses_1"
    assert fold.root_of("ses_9") is None
    fold.forget("ses_1")
    assert fold.family("ses_1") == []
    assert (fold.first_sign, fold.last_sign) == ({}, {})


def test_nothing_is_kept_of_what_is_forgotten() -> None:
    fold, _ = folded(created("ses_2", "ses_1"), message("ses_2", "msg_1"), delta("ses_2", "msg_1"))
    fold.forget("ses_1")
    # What opencode tells afterwards, of the root, its child and a child of that.
    for late in (message("ses_1", "msg_2"), delta("ses_2", "msg_1"), created("ses_3", "ses_2")):
        assert fold.add(late, 9.0) is None
    kept = [value for value in vars(fold).values() if value]
    assert kept == []


def test_a_session_is_adopted_once() -> None:
    fold, _ = folded(created("ses_2", "ses_1"), message("ses_2", "msg_1"), created("ses_2", "ses_1"))
    assert list(fold.family("ses_1")[1].infos) == ["msg_1"]


def test_sessions_that_are_not_watched_are_passed_over() -> None:
    fold, state = folded(message("ses_9", "msg_1"))
    assert fold.add(message("ses_9", "msg_2"), 9.0) is None
    assert (state.infos, fold.last_sign["ses_1"]) == ({}, 0.0)
    assert fold.add(message("ses_1", "msg_2"), 9.0) is state


@pytest.mark.parametrize(
    ("events", "first", "last"),
    [
        ([], None, 0.0),
        # Our own message and opencode's "busy" show no provider.
        ([message("ses_1", "msg_1", "user"), part("ses_1", "msg_1", "prt_1")], None, 2.0),
        ([status("ses_1", type="busy")], None, 1.0),
        ([message("ses_1", "msg_2")], None, 1.0),
        ([message("ses_1", "msg_2"), part("ses_1", "msg_2", "prt_1")], 2.0, 2.0),
        ([message("ses_1", "msg_2"), delta("ses_1", "msg_2"), delta("ses_1", "msg_2")], 2.0, 3.0),
        ([delta("ses_1", "msg_2")], None, 1.0),
        # A child's sign is its root's.
        ([created("ses_2", "ses_1"), message("ses_2", "msg_2"), delta("ses_2", "msg_2")], 3.0, 3.0),
    ],
)
def test_signs_of_life(events: list[dict[str, Any]], first: float | None, last: float) -> None:
    fold, _ = folded(*events)
    assert fold.first_sign.get("ses_1") == first
    assert fold.last_sign["ses_1"] == last


def test_watching_again_begins_anew_and_keeps_what_is_known() -> None:
    fold, state = folded(
        message("ses_1", "msg_1"),
        delta("ses_1", "msg_1"),
        event("session.error", sessionID="ses_1", error={"name": "APIError"}),
        event("session.idle", sessionID="ses_1"),
    )
    assert (state.idle, state.error) == (True, {"name": "APIError"})
    assert fold.watch("ses_1", 20.0) is state
    assert (state.idle, state.error, state.retry) == (False, None, None)
    assert list(state.infos) == ["msg_1"]
    assert "ses_1" not in fold.first_sign
    assert fold.last_sign["ses_1"] == 20.0


def test_messages_have_the_shape_and_order_of_the_export() -> None:
    _, state = folded(
        message("ses_1", "msg_2"),
        part("ses_1", "msg_2", "prt_2", "b"),
        part("ses_1", "msg_2", "prt_1", "old"),
        part("ses_1", "msg_2", "prt_1", "a"),
        part("ses_1", "msg_2", "prt_3", "gone"),
        message("ses_1", "msg_1", "user"),
        message("ses_1", "msg_3"),
        event("message.part.removed", sessionID="ses_1", messageID="msg_2", partID="prt_3"),
        event("message.removed", sessionID="ses_1", messageID="msg_3"),
        message("ses_1", "msg_2", finish="stop"),
    )
    assert [m["info"]["id"] for m in state.messages] == ["msg_1", "msg_2"]
    assert state.messages[1]["info"]["finish"] == "stop"
    assert [p["text"] for p in state.messages[1]["parts"]] == ["a", "b"]


def test_retries_are_counted_with_their_moments() -> None:
    waiting = status("ses_1", type="retry", attempt=1, message="Rate limit reached", next=NEXT_MS)
    _, state = folded(waiting, status("ses_1", type="busy"), waiting)
    assert state.retry == state.inner_retries[-1]
    assert [retry.number for retry in state.inner_retries] == [1, 2]
    assert state.inner_retries[0].message == "Rate limit reached"
    assert state.inner_retries[0].next_at == datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("after", [status("ses_1", type="busy"), event("session.idle", sessionID="ses_1")])
def test_a_retry_ends_and_stays_counted(after: dict[str, Any]) -> None:
    _, state = folded(status("ses_1", type="retry", next=NEXT_MS), after)
    assert state.retry is None
    assert len(state.inner_retries) == 1


@pytest.mark.parametrize("moment", [None, "soon", True, 1e300, float("nan"), [], {}])
def test_a_retry_without_a_moment_has_none(moment: Any) -> None:
    _, state = folded(status("ses_1", type="retry", next=moment))
    assert state.retry is not None
    assert (state.retry.next_at, state.retry.message) == (None, "")


def test_permission_requests_are_handed_out_once() -> None:
    fold, state = folded(
        event("permission.asked", sessionID="ses_1", id="per_1", permission="bash"),
        event("question.asked", sessionID="ses_1", id="que_1"),
    )
    assert state.asked_permissions == {"per_1": "bash", "que_1": "question"}
    assert state.new_requests() == ["per_1", "que_1"]
    assert state.new_requests() == []
    fold.add(event("permission.asked", sessionID="ses_1", id="per_1", permission="bash"), 9.0)
    fold.add(event("permission.asked", sessionID="ses_1", id="per_2"), 9.0)
    assert state.new_requests() == ["per_2"]
    assert state.asked_permissions["per_2"] == "unknown"
    # The next prompt of the session has asked for nothing yet.
    fold.watch("ses_1", 20.0)
    assert (state.asked_permissions, state.new_requests()) == ({}, [])


@pytest.mark.parametrize(
    ("properties", "session_id"),
    [
        ({"sessionID": "ses_1"}, "ses_1"),
        ({"part": {"sessionID": "ses_2"}}, "ses_2"),
        ({"info": {"sessionID": "ses_3"}}, "ses_3"),
        ({"sessionID": 5, "part": None, "info": {"sessionID": "ses_3"}}, "ses_3"),
        ({"sessionID": ""}, None),
        ({}, None),
    ],
)
def test_the_session_of_an_event(properties: dict[str, Any], session_id: str | None) -> None:
    assert session_of_event(properties) == session_id


@pytest.mark.parametrize(
    "malformed",
    [
        {},
        {"type": "session.idle"},
        {"type": "session.idle", "properties": ["ses_1"]},
        {"type": ["session.idle"], "properties": {"sessionID": "ses_1"}},
        event("message.updated", sessionID="ses_1"),
        event("message.updated", sessionID="ses_1", info={"id": ["msg_1"]}),
        event("message.part.updated", sessionID="ses_1", part={"id": "prt_1"}),
        event("message.part.updated", sessionID="ses_1", part={"messageID": "msg_1"}),
        event("message.part.updated", sessionID="ses_1", part="text"),
        event("message.part.removed", sessionID="ses_1", messageID={}, partID=[]),
        event("session.created", info={"id": ["ses_2"], "parentID": "ses_1"}),
        event("session.created", info={"id": "ses_2", "parentID": {}}),
        event("session.error", sessionID="ses_1", error="broken"),
        event("session.status", sessionID="ses_1", status="busy"),
        event("permission.asked", sessionID="ses_1", permission="bash"),
        event("permission.asked", sessionID="ses_1", id={}, permission="bash"),
        event("an event of next year", sessionID="ses_1"),
    ],
)
def test_malformed_events_change_nothing(malformed: dict[str, Any]) -> None:
    fold, state = folded(malformed)
    assert state == SessionEvents(session_id="ses_1")
    assert fold.family("ses_1") == [state]


KINDS = (
    *("message.updated", "message.part.updated", "message.part.delta", "message.part.removed"),
    *("message.removed", "session.status", "session.idle", "session.error", "session.created"),
    *("permission.asked", "question.asked"),
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("ses_1")
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
inner_names = ("id", "sessionID", "messageID", "parentID", "role", "type", "next", "message")
inners = json_values | st.fixed_dictionaries({}, optional=dict.fromkeys(inner_names, json_values))
outer_names = ("info", "part", "status", "error", "id", "messageID", "partID", "permission")
properties = json_values | st.fixed_dictionaries(
    {"sessionID": st.just("ses_1")}, optional=dict.fromkeys(outer_names, inners)
)
events = st.fixed_dictionaries(
    {}, optional={"type": json_values | st.sampled_from(KINDS), "properties": properties}
)


@given(st.lists(events, max_size=5))
def test_no_event_breaks_the_stream(stream: list[dict[str, Any]]) -> None:
    fold, state = folded(*stream)
    assert fold.family("ses_1")[0] is state
    assert all(isinstance(member.messages, list) for member in fold.family("ses_1"))
    fold.add(event("session.idle", sessionID="ses_1"), 99.0)
    assert state.idle
    assert fold.last_sign["ses_1"] == 99.0


def test_a_keep_alive_of_a_watched_family_is_a_sign_of_life() -> None:
    fold, _ = folded(created("ses_2", "ses_1"))
    fold.add_alive("ses_2", 7.0)
    fold.add_alive("ses_1", 9.0)
    for unknown in ("ses_9", None):
        fold.add_alive(unknown, 11.0)
    assert (fold.first_sign, fold.last_sign) == ({"ses_1": 7.0}, {"ses_1": 9.0})
