"""Rows of a run with the sessions that gave their outcomes, a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, exists, func, select

from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.ledger.operation_groups import Group, read
from opencode_tasks.ledger.schema import attempts, rows, sessions, shown_status, usage
from opencode_tasks.ledger.usage import unpack_messages
from opencode_tasks.outcomes.session_tree import SessionTree, session_trees

OUTCOME_COLUMNS = (
    *("row_id", "error_type", "session_id", "model_ref", "response", "answered_by", "system"),
    *("attempts", "cost_pico", "check_passed"),
)
DIFF_COLUMNS = ("row_id", "model_ref", "diff", "diff_url", "files_changed")


def position_count(connection: Connection, run_id: str) -> int:
    """The number of positions that the rows of a run have: one more than the last one."""
    query = select(func.max(rows.c.position)).where(rows.c.run_id == run_id)
    last = connection.execute(query).scalar_one_or_none()
    return 0 if last is None else last + 1


def row_columns(
    connection: Connection, run_id: str, span: range, names: Sequence[str]
) -> list[dict[str, Any]]:
    """These columns, and ``status``, of the rows at these positions, in order; ``span`` has the step 1."""
    query = (
        select(*(rows.c[name] for name in names), shown_status.label("status"))
        .where(rows.c.run_id == run_id, rows.c.position >= span.start, rows.c.position < span.stop)
        .order_by(rows.c.position, rows.c.row_id)
    )
    return [dict(found) for found in connection.execute(query).mappings()]


def trees(connection: Connection, root_ids: Sequence[str]) -> dict[str, SessionTree]:
    """These sessions with their sub-agents, messages and usage, by their ids, of whatever run they are.

    The answer of a row can be that of a vote, of another model or of an earlier run.
    """
    root, unknown = sessions.alias("root"), attempts.alias("unknown")
    # A session can be the work of several attempts at its row.
    is_of_session = (unknown.c.attempt_id == sessions.c.attempt_id) | (
        unknown.c.session_id == sessions.c.session_id
    )
    has_unknown = exists().where(
        unknown.c.run_id == sessions.c.run_id,
        unknown.c.row_id == sessions.c.row_id,
        unknown.c.usage_known.is_(False),
        is_of_session,
    )
    query = (
        select(
            *(sessions.c[name] for name in ("session_id", "parent_id", "messages")),
            (~has_unknown).label("usage_known"),
        )
        .select_from(root)
        .join(sessions, (sessions.c.run_id == root.c.run_id) & (sessions.c.row_id == root.c.row_id))
        .where(root.c.session_id.in_(root_ids))
        .order_by(sessions.c.session_id)
    )
    by_id = {line["session_id"]: dict(line) for line in connection.execute(query).mappings()}
    found = [line | {"messages": unpack_messages(line["messages"])} for line in by_id.values()]
    names = ("session_id", "step_id", *TOKEN_COLUMNS, "cost_pico")
    of_sessions = (
        select(*(usage.c[name] for name in names))
        .where(usage.c.session_id.in_([one["session_id"] for one in found]))
        .order_by(usage.c.ended_at, usage.c.step_id)
    )
    lines = [dict(line) for line in connection.execute(of_sessions).mappings()]
    return session_trees(found, lines, root_ids)


class SessionSets(Group):
    """``ledger.session_sets``: rows with their sessions, for exports."""

    positions: Final = read(position_count)
    rows: Final = read(row_columns)
    trees: Final = read(trees)
