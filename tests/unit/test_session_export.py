"""Exports of a session and its children, of which nothing is trusted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from opencode_tasks.opencode.session_export import MAX_SESSIONS, exported_family

Messages = list[Mapping[str, Any]]


def message(*children: str) -> Messages:
    """A session with a call of the tool ``task`` for each child."""
    calls = [
        {"type": "tool", "tool": "task", "state": {"status": "completed", "metadata": {"sessionId": child}}}
        for child in children
    ]
    return [{"info": {"id": "msg_1", "role": "assistant"}, "parts": calls}]


def family(sessions: Mapping[str, Messages], **known: str) -> tuple[list[tuple[str, str | None]], list[str]]:
    """The sessions that are found with their parents, and those that are exported."""
    exported: list[str] = []

    def export(session_id: str) -> Messages | None:
        exported.append(session_id)
        return sessions.get(session_id)

    found = asyncio.run(exported_family("ses_root", export, frozenset(), known))
    return [(one.session_id, one.parent_id) for one in found], exported


def test_the_children_are_those_of_the_tool_and_those_that_are_known() -> None:
    sessions = {
        "ses_root": message("ses_a", "ses_b", "ses_a"),
        "ses_a": message("ses_c"),
        "ses_c": message("ses_root"),
        "ses_k": message(),
    }
    found, exported = family(sessions, ses_k="ses_root")
    assert found == [("ses_root", None), ("ses_k", "ses_root"), ("ses_a", "ses_root"), ("ses_c", "ses_a")]
    assert sorted(exported) == ["ses_a", "ses_b", "ses_c", "ses_k", "ses_root"]


def test_sessions_that_a_row_invents_start_a_bounded_number_of_exports() -> None:
    invented = {f"ses_{number}": "ses_root" for number in range(10 * MAX_SESSIONS)}
    found, exported = family({"ses_root": message(*invented)}, **invented)
    assert (found, len(exported)) == ([("ses_root", None)], MAX_SESSIONS)


def test_an_id_that_is_no_name_of_a_session_is_not_exported() -> None:
    found, exported = family({"ses_root": message("../x", "ses_a/b")}, **{"../y": "ses_root"})
    assert (found, exported) == ([("ses_root", None)], ["ses_root"])
