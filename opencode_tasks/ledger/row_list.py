"""Rows of a run as a list that people filter, sort and page through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Numeric,
    Select,
    Text,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.types import TypeEngine

from opencode_tasks.domain.columns import RESPONSE
from opencode_tasks.domain.records import RowStatus
from opencode_tasks.ledger.operation_groups import Group, read
from opencode_tasks.ledger.progress import ROW_STATUSES
from opencode_tasks.ledger.schema import HELD, attempts, gold_values, reviews, rows, runs, shown_status
from opencode_tasks.ledger.sql_functions import JsonScalar, SearchedText, answer_pairs, label_pairs
from opencode_tasks.ledger.usage_sums import count_if

PROMPT_CHARS = 300
ANSWER_CHARS = 2000
# Of a JSON boolean as text: SQLite's, and PostgreSQL's.
BOOLEANS: Mapping[str, tuple[str, str]] = {"true": ("1", "true"), "false": ("0", "false")}
ENDED_OTHERWISE = ("open", HELD, "failed", "skipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFilter:
    """Which rows of a run are listed; a value that is None or empty selects all.

    - ``text``: a part of the prompt, the answer or the id. ASCII letters match in upper and lower case.
    - ``values``: exact values of answer fields as text, by field; ``response`` is a whole answer.
    - ``labels``: exact values of the row's labels, by name.
    - ``has_gold_mismatch``: whether the answer of the model differs from a gold value of its row.
    - ``has_open_mismatch``: whether it does, and no person has answered the row.
    - ``agreement_below``: of a run with votes, the share of the votes that agree with the answer.
    - ``is_reviewed``: whether the answer is that of a person.
    """

    text: str | None = None
    status: RowStatus | None = None
    error_type: str | None = None
    values: Mapping[str, str] = field(default_factory=dict[str, str])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    has_gold_mismatch: bool = False
    has_open_mismatch: bool = False
    min_cost_pico: int | None = None
    agreement_below: float | None = None
    is_reviewed: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOrder:
    """Order of a list: ``column`` is a key of ``SORT_COLUMNS`` or the name of an answer field.

    ``is_number``: the values are numbers. Rows without a value are last. Rows with the same value have the
    order of the input.
    """

    column: str = "position"
    is_descending: bool = False
    is_field: bool = False
    is_number: bool = False


SORT_COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    "position": rows.c.position,
    "row_id": rows.c.row_id,
    "prompt": func.substr(rows.c.prompt, 1, PROMPT_CHARS),
    "answer": func.substr(func.coalesce(JsonScalar(rows.c.structured), rows.c.response), 1, PROMPT_CHARS),
    "status": shown_status,
    "error_type": rows.c.error_type,
    "cost": rows.c.cost_pico,
    "attempts": rows.c.attempts,
    "agreement": rows.c.agreement,
}


def matching_ids(
    connection: Connection, run_id: str, wanted: RowFilter, order: RowOrder, span: range
) -> list[str]:
    """The ids of the rows at these places of a list; ``span`` has the step 1."""
    by = _field_value(order) if order.is_field else SORT_COLUMNS[order.column]
    if order.column == "answer" and order.is_number and not order.is_field:
        by = cast(JsonScalar(rows.c.structured), Numeric())
    direction = by.desc() if order.is_descending else by.asc()
    first = direction if order.column == "position" else direction.nulls_last()
    query = (
        select(rows.c.row_id)
        .where(_condition(run_id, wanted))
        .order_by(first, rows.c.position, rows.c.row_id)
        .limit(len(span))
        .offset(span.start)
    )
    return list(connection.execute(query).scalars())


def count_matching(connection: Connection, run_id: str, wanted: RowFilter) -> int:
    """The number of rows that a filter selects."""
    query = select(func.count()).select_from(rows).where(_condition(run_id, wanted))
    return connection.execute(query).scalar_one()


def row_lines(
    connection: Connection, run_id: str, row_ids: Sequence[str], prompt_start: str = ""
) -> list[dict[str, Any]]:
    """Rows for a list, in the order of their ids.

    A prompt that begins with ``prompt_start`` has "…" in its place.

    Keys: ``row_id``, ``position``, ``status``, ``error_type``, ``structured``, ``cost_pico``, ``attempts``,
    ``answered_by``, ``agreement`` (of a run with votes), the first characters of ``prompt`` and
    ``response``, and ``gold``, the gold values of the row with ``field``, ``value`` and ``is_correct``.
    """
    names = ("row_id", "position", "error_type", "structured", "cost_pico", "attempts", "answered_by")
    query = select(
        *(rows.c[name] for name in names),
        shown_status.label("status"),
        _shown_prompt(prompt_start).label("prompt"),
        func.substr(rows.c.response, 1, ANSWER_CHARS).label("response"),
        rows.c.agreement,
    ).where(rows.c.run_id == run_id, rows.c.row_id.in_(row_ids))
    found = {line["row_id"]: dict(line) for line in connection.execute(query).mappings()}
    gold = gold_of_rows(connection, run_id, row_ids)
    return [found[one] | {"gold": gold.get(one, [])} for one in row_ids if one in found]


def _shown_prompt(start: str) -> ColumnElement[Any]:
    first = func.substr(rows.c.prompt, 1, PROMPT_CHARS)
    if not start:
        return first
    rest = literal("…") + func.substr(rows.c.prompt, len(start) + 1, PROMPT_CHARS)
    return case((func.substr(rows.c.prompt, 1, len(start)) == start, rest), else_=first)


def gold_of_rows(
    connection: Connection, run_id: str, row_ids: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """The gold values of rows by row id, each with ``field``, ``value`` and ``is_correct``."""
    query = (
        select(*(gold_values.c[name] for name in ("row_id", "field", "value", "is_correct")))
        .where(gold_values.c.run_id == run_id, gold_values.c.row_id.in_(row_ids))
        .order_by(gold_values.c.field)
    )
    return _by_row(connection, query)


def reviews_of_rows(
    connection: Connection, run_id: str, row_ids: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """The answers that persons gave to rows by row id, oldest first: every column of ``reviews``."""
    query = select(reviews).where(reviews.c.run_id == run_id, reviews.c.row_id.in_(row_ids))
    return _by_row(connection, query.order_by(reviews.c.reviewed_at))


def _by_row(connection: Connection, query: Select[Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in connection.execute(query).mappings():
        found.setdefault(line["row_id"], []).append(dict(line))
    return found


def run_columns(connection: Connection, run_id: str) -> dict[str, Any] | None:
    """Every column of a run in ``runs``, without counts, which take longer; None if there is no such run.

    ``spent_pico`` includes that of its parts.
    """
    found = connection.execute(select(runs).where(runs.c.run_id == run_id)).mappings().one_or_none()
    if found is None:
        return None
    of_parts = select(func.coalesce(func.sum(runs.c.spent_pico), 0)).where(runs.c.parent_run_id == run_id)
    return {**found, "spent_pico": found["spent_pico"] + int(connection.execute(of_parts).scalar_one())}


def error_types(connection: Connection, run_id: str) -> list[str]:
    """The error types of the rows of a run that are not completed, in alphabetical order."""
    query = (
        select(rows.c.error_type)
        .distinct()
        .where(rows.c.run_id == run_id, rows.c.status.in_(ENDED_OTHERWISE), rows.c.error_type.is_not(None))
    )
    return sorted(connection.execute(query).scalars())


def has_gold(connection: Connection, run_id: str) -> bool:
    """Whether a run has gold values."""
    query = select(exists().where(gold_values.c.run_id == run_id))
    return connection.execute(query).scalar_one()


def row_counts(connection: Connection, run_id: str) -> dict[str, Any]:
    """The ``status`` of a run, its number of rows by status, and its number of ``attempts``.

    An open page asks often, so that only indexes are read.
    """
    by_status = select(*(count_if(shown_status == status).label(status) for status in ROW_STATUSES))
    counts = connection.execute(by_status.where(rows.c.run_id == run_id)).mappings().one()
    begun = select(func.count()).select_from(attempts).where(attempts.c.run_id == run_id)
    status = select(runs.c.status).where(runs.c.run_id == run_id)
    return {
        "status": connection.execute(status).scalar_one_or_none(),
        "attempts": connection.execute(begun).scalar_one(),
        **counts,
    }


def row_state(connection: Connection, run_id: str, row_id: str) -> dict[str, Any]:
    """What changes when something happens to a row: its ``status``, and counts. None as status without it.

    The counts are of its ``attempts``, of the ``ended`` ones, and of its ``votes`` that have ended.
    An open page asks often, so that only lines of this row are read.
    """
    row = select(shown_status, rows.c.reviewed_at).where(rows.c.run_id == run_id, rows.c.row_id == row_id)
    begun = select(func.count(), func.count(attempts.c.ended_at)).where(
        attempts.c.run_id == run_id, attempts.c.row_id == row_id
    )
    of_parts = select(runs.c.run_id).where(runs.c.parent_run_id == run_id)
    votes = select(count_if(rows.c.status.in_(("completed", "failed", "skipped")))).where(
        rows.c.run_id.in_(of_parts), rows.c.row_id == row_id
    )
    status, reviewed_at = connection.execute(row).one_or_none() or (None, None)
    number, ended = connection.execute(begun).one()
    return {
        "status": status,
        "reviewed_at": reviewed_at,
        "attempts": number,
        "ended": ended,
        "votes": connection.execute(votes).scalar_one(),
    }


def _condition(run_id: str, wanted: RowFilter) -> ColumnElement[bool]:
    conditions = [rows.c.run_id == run_id]
    if wanted.text:
        texts = (rows.c.prompt, rows.c.response, rows.c.row_id)
        conditions.append(
            or_(*(SearchedText(text).icontains(wanted.text, autoescape=True) for text in texts))
        )
    if wanted.status == "open":
        conditions.append(rows.c.status.in_(("open", HELD)))
    elif wanted.status is not None:
        conditions.append(rows.c.status == wanted.status)
    if wanted.error_type is not None:
        conditions.append(rows.c.error_type == wanted.error_type)
    conditions += [_has_value(name, value) for name, value in wanted.values.items()]
    conditions += [
        _has_pair(label_pairs(rows.c.labels), name, (value,)) for name, value in wanted.labels.items()
    ]
    if wanted.has_open_mismatch:
        conditions.append(rows.c.answered_by.is_(None))
    if wanted.has_gold_mismatch or wanted.has_open_mismatch:
        is_of_row = (gold_values.c.run_id == rows.c.run_id) & (gold_values.c.row_id == rows.c.row_id)
        conditions.append(exists().where(is_of_row, gold_values.c.is_correct.is_(False)))
    if wanted.min_cost_pico is not None:
        conditions.append(rows.c.cost_pico >= wanted.min_cost_pico)
    if wanted.agreement_below is not None:
        conditions.append(rows.c.agreement < wanted.agreement_below)
    if wanted.is_reviewed is not None:
        reviewed_at = rows.c.reviewed_at
        conditions.append(reviewed_at.is_not(None) if wanted.is_reviewed else reviewed_at.is_(None))
    return and_(*conditions)


def _has_value(name: str, value: str) -> ColumnElement[bool]:
    if name == RESPONSE.name:
        return or_(
            JsonScalar(rows.c.structured).in_(BOOLEANS.get(value, (value,))),
            and_(rows.c.structured.is_(None), rows.c.response == value),
        )
    return _has_pair(answer_pairs(rows.c.structured), name, BOOLEANS.get(value, (value,)))


def _has_pair(pairs: Any, name: str, values: Sequence[str]) -> ColumnElement[bool]:
    return exists(
        select(1).select_from(pairs).where(pairs.c.key == name, cast(pairs.c.value, Text).in_(values))
    )


def _field_value(order: RowOrder) -> ColumnElement[Any]:
    pairs = answer_pairs(rows.c.structured)
    kind: TypeEngine[Any] = Numeric() if order.is_number else Text()
    value: ColumnElement[Any] = cast(pairs.c.value, kind)
    return select(value).select_from(pairs).where(pairs.c.key == order.column).scalar_subquery()


class RowList(Group):
    """``ledger.row_list``: the rows of a run for a page that lists them."""

    run: Final = read(run_columns)
    ids: Final = read(matching_ids)
    count: Final = read(count_matching)
    lines: Final = read(row_lines)
    gold: Final = read(gold_of_rows)
    reviews: Final = read(reviews_of_rows)
    error_types: Final = read(error_types)
    has_gold: Final = read(has_gold)
    counts: Final = read(row_counts)
    state: Final = read(row_state)
