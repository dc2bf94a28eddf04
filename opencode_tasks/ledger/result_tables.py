"""Results of a run as tables: outcomes, attempts, usage and cost. Each row is a dict of its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Select, case, func, literal_column, not_, select

from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.domain.text import ANSWER_IN_MESSAGE
from opencode_tasks.ledger import schema
from opencode_tasks.ledger.operation_groups import Group, read
from opencode_tasks.ledger.schema import (
    HELD,
    SENT_COLUMNS,
    attempts,
    inner_retries,
    is_canary,
    rows,
    runs,
    sessions,
    shown_status,
    usage,
)
from opencode_tasks.ledger.sql_functions import TextBefore
from opencode_tasks.ledger.usage import unpack_messages
from opencode_tasks.ledger.usage_sums import cost_source, known_sums, sums
from opencode_tasks.ledger.votes import family, votes_on

# The keys of ``attempts``, ``usage`` and ``cost``, also known if there are no lines.
ATTEMPT_COLUMNS = tuple(schema.attempts.c.keys())
USAGE_COLUMNS = tuple(schema.usage.c.keys())
COST_COLUMNS = ("model_ref", "rows", "steps", *TOKEN_COLUMNS, "cost_pico", "cost_source", "failed_cost_pico")


def _dicts(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]


def outcomes(connection: Connection, run_id: str, span: range | None = None) -> list[dict[str, Any]]:
    """The rows of a run in input order: every column of ``rows`` except run_id and texts that are sent.

    ``span`` limits them to the rows at these positions; it has the step 1.
    """
    left_out = ("run_id", *SENT_COLUMNS, "status")
    columns = [column for column in rows.c if column.name not in left_out]
    query = select(*columns, shown_status.label("status")).where(rows.c.run_id == run_id)
    if span is not None:
        query = query.where(rows.c.position >= span.start, rows.c.position < span.stop)
    return _dicts(connection, query.order_by(rows.c.position, rows.c.row_id))


def answers_of_run(connection: Connection, run_id: str, *, has_schema: bool) -> list[dict[str, Any]]:
    """The answers of a run in input order, with their cost and times.

    Keys: ``row_id``, ``status``, ``has_response`` (a purged answer is none), ``cost_pico``,
    ``source_run_id``, ``started_at``, ``completed_at`` and ``value``: the JSON value if the run has a schema,
    else the text.
    """
    names = ("row_id", "cost_pico", "source_run_id", "started_at", "completed_at")
    query = select(
        *(rows.c[name] for name in names),
        shown_status.label("status"),
        rows.c.response.is_not(None).label("has_response"),
        (rows.c.structured if has_schema else rows.c.response).label("value"),
    ).where(rows.c.run_id == run_id)
    return _dicts(connection, query.order_by(rows.c.position, rows.c.row_id))


def prompts_of_rows(
    connection: Connection, run_id: str, row_ids: Sequence[str], chars: int
) -> dict[str, str]:
    """The first characters of the prompts of these rows, by row id; purged ones are left out."""
    query = select(rows.c.row_id, func.substr(rows.c.prompt, 1, chars)).where(
        rows.c.run_id == run_id, rows.c.row_id.in_(row_ids), rows.c.prompt.is_not(None)
    )
    return {line[0]: line[1] for line in connection.execute(query)}


def prompts_of_run(connection: Connection, run_id: str) -> dict[str, str]:
    """The prompts of the rows of a run by row id; rows whose prompt was purged are left out."""
    query = select(rows.c.row_id, rows.c.prompt).where(rows.c.run_id == run_id, rows.c.prompt.is_not(None))
    return {line[0]: line[1] for line in connection.execute(query)}


def usage_of_run(connection: Connection, run_id: str) -> list[dict[str, Any]]:
    """The steps of a run and of its parts by time: every column of ``usage``."""
    query = select(usage).where(usage.c.run_id.in_(family(run_id)))
    return _dicts(connection, query.order_by(usage.c.ended_at, usage.c.session_id, usage.c.step_id))


def attempts_of_run(connection: Connection, run_id: str) -> list[dict[str, Any]]:
    """The attempts of a run and of its parts, oldest first: every column of ``attempts``."""
    query = select(attempts).where(attempts.c.run_id.in_(family(run_id)))
    return _dicts(connection, query.order_by(attempts.c.started_at, attempts.c.attempt_id))


def cost_of_run(connection: Connection, run_id: str) -> list[dict[str, Any]]:
    """The cost of a run and of its parts, one dict for each ``model_ref`` with the keys ``COST_COLUMNS``.

    ``rows`` counts the rows with a step of that model, canaries aside, and ``steps`` its model calls.
    ``failed_cost_pico`` is the part of attempts that did not complete. A sum is None if it is
    unknown for a step.
    """
    failed = case((attempts.c.status != "completed", usage.c.cost_pico), else_=0)
    query = (
        select(
            usage.c.model_ref,
            func.count(case((not_(is_canary), usage.c.row_id)).distinct()).label("rows"),
            *sums(),
            func.coalesce(func.sum(failed), 0).label("failed"),
            func.count(failed).label("known_failed"),
        )
        .join(attempts, attempts.c.attempt_id == usage.c.attempt_id)
        .join(runs, runs.c.run_id == usage.c.run_id)
        .where(usage.c.run_id.in_(family(run_id)))
        .group_by(usage.c.model_ref)
        .order_by(usage.c.model_ref)
    )
    return [_cost_line(found) for found in connection.execute(query).mappings()]


def _cost_line(found: Mapping[Any, Any]) -> dict[str, Any]:
    is_known = found["known_failed"] == found["steps"]
    return {
        "model_ref": found["model_ref"],
        "rows": found["rows"],
        "steps": found["steps"],
        **known_sums(found, 0),
        "cost_source": cost_source(found),
        "failed_cost_pico": int(found["failed"]) if is_known else None,
    }


def failure_messages(connection: Connection, run_id: str, *, limit: int) -> list[dict[str, Any]]:
    """``error_type`` and ``error_message`` of failed rows, their number ``failed_rows``, and a ``row_id``.

    The ``limit`` most frequent ones, the most frequent one first. Messages that differ by the answer that
    they repeat are one.
    """
    failed_rows = func.count().label("failed_rows")
    message = TextBefore(rows.c.error_message, literal_column(f"'{ANSWER_IN_MESSAGE}'"))
    query = (
        select(
            rows.c.error_type,
            message.label("error_message"),
            failed_rows,
            func.min(rows.c.row_id).label("row_id"),
        )
        .where(rows.c.run_id == run_id, rows.c.status == "failed")
        .group_by(rows.c.error_type, message)
        .order_by(failed_rows.desc(), rows.c.error_type, message)
        .limit(limit)
    )
    return _dicts(connection, query)


def row_details(connection: Connection, run_id: str, row_id: str) -> dict[str, Any] | None:
    """Everything that the ledger knows about a row; None if there is no such row.

    Keys: ``row``, ``attempts``, ``sessions`` (with messages, root first), ``usage``, ``inner_retries`` and
    ``votes``.
    """
    return details_of_rows(connection, run_id, [row_id]).get(row_id)


_LISTS = ("attempts", "sessions", "usage", "inner_retries", "votes")


def details_of_rows(connection: Connection, run_id: str, row_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The details of several rows by their ids."""

    def lines_of(table: Any, *order: Any) -> list[dict[str, Any]]:
        are_of_rows = (table.c.run_id == run_id) & table.c.row_id.in_(row_ids)
        return _dicts(connection, select(table).where(are_of_rows).order_by(*order))

    found: dict[str, dict[str, Any]] = {}
    for row in lines_of(rows):
        status = {"status": "open"} if row["status"] == HELD else {}
        lists: dict[str, Any] = {name: [] for name in _LISTS}
        found[row["row_id"]] = {"row": row | status, **lists}

    def add(name: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["row_id"] in found:
                found[line["row_id"]][name].append(line)

    row_attempts = lines_of(attempts, attempts.c.started_at, attempts.c.attempt)
    add("attempts", row_attempts)
    row_sessions = lines_of(sessions, sessions.c.parent_id.is_not(None), sessions.c.session_id)
    add("sessions", [one | {"messages": unpack_messages(one["messages"])} for one in row_sessions])
    add("usage", lines_of(usage, usage.c.ended_at, usage.c.step_id))
    row_of = {attempt["attempt_id"]: attempt["row_id"] for attempt in row_attempts}
    retries = select(inner_retries).where(inner_retries.c.attempt_id.in_(list(row_of)))
    for retry in _dicts(connection, retries.order_by(inner_retries.c.session_id, inner_retries.c.number)):
        found[row_of[retry["attempt_id"]]]["inner_retries"].append(retry)
    add("votes", votes_on(connection, run_id, row_ids))
    return found


class Results(Group):
    """``ledger.results``: outcomes, attempts, usage and cost of a run."""

    outcomes: Final = read(outcomes)
    answers: Final = read(answers_of_run)
    prompts: Final = read(prompts_of_run)
    prompts_of: Final = read(prompts_of_rows)
    row: Final = read(row_details)
    rows: Final = read(details_of_rows)
    attempts: Final = read(attempts_of_run)
    usage: Final = read(usage_of_run)
    cost: Final = read(cost_of_run)
    failure_messages: Final = read(failure_messages)
