"""Retention: remove texts and row ids from a ledger, and keep tokens and costs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Table,
    case,
    cast,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.types import Text

from opencode_tasks.domain.columns import STORED
from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.text import without_quotes
from opencode_tasks.ledger.incremental_series import PURGED_ID, keep_digests
from opencode_tasks.ledger.operation_groups import Group
from opencode_tasks.ledger.runs import SYSTEM_TEXT, UNFINISHED
from opencode_tasks.ledger.schema import (
    CANARY_PART,
    SENT_COLUMNS,
    attempts,
    gold_values,
    inner_retries,
    reviews,
    rows,
    runs,
    sessions,
    usage,
)

ALL_TEXTS = frozenset(("prompts", "answers", "traces"))
RUNS_PER_UPDATE = 500
ROWS_PER_READ = 500
PROMPT_MARK = "[prompt]"
# The columns with messages of providers about one row, and the key of a message in a run.
MESSAGES = (
    (rows.c.error_message, rows.c.position),
    (attempts.c.error_message, attempts.c.attempt_id),
    (reviews.c.previous_error_message, reviews.c.row_id),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """The purged runs: their number, that of their rows, and their ids with those of their parts.

    ``machines`` are the names of other machines that have kept files of the rows.
    """

    runs: int
    rows: int
    run_ids: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()


def _without_texts(kind: Literal["answers", "messages"]) -> dict[str, Any]:
    """The values that remove the texts of a kind from ``rows``."""
    return {column.ledger_name: null() for column in STORED if column.text == kind}


def purge_runs(connection: Connection, before: datetime, *, texts_only: bool, now: datetime) -> Purged:
    """``Retention.purge`` without the space on the disk."""
    # A part of a run is purged with it.
    whole = runs.alias("whole")
    is_of_whole = whole.c.run_id == func.coalesce(runs.c.parent_run_id, runs.c.run_id)
    query = (
        select(runs.c.run_id, runs.c.parent_run_id)
        .join(whole, is_of_whole)
        .where(
            whole.c.status.not_in(UNFINISHED), func.coalesce(whole.c.ended_at, whole.c.created_at) < before
        )
    )
    # Parts first: the numbers of their rows are read from the rows of their runs.
    found = sorted(connection.execute(query), key=lambda run: (run.parent_run_id is None, run.run_id))
    wholes = {run.run_id for run in found if run.parent_run_id is None}
    chunks = [
        [run.run_id for run in found[start : start + RUNS_PER_UPDATE]]
        for start in range(0, len(found), RUNS_PER_UPDATE)
    ]
    if not texts_only:
        for chunk in chunks:
            _replace_source_ids(connection, chunk)
    count, machines = 0, set[str]()
    for chunk in chunks:
        counted = select(func.count()).select_from(rows).where(rows.c.run_id.in_(wholes.intersection(chunk)))
        count += connection.execute(counted).scalar_one()
        machines |= _machines(connection, chunk)
        remove_texts(connection, chunk, ALL_TEXTS, now)
        connection.execute(_update(rows, chunk).values(**_without_texts("messages")))
        connection.execute(_update(reviews, chunk).values(previous_error_message=null()))
        connection.execute(_update(attempts, chunk).values(error_message=null(), data_dir=null()))
        connection.execute(_update(runs, chunk).values(parameters={}, pause_reason=null()))
        if not texts_only:
            keep_digests(connection, chunk)
            _replace_ids(connection, chunk)
    run_ids = tuple(run_id for chunk in chunks for run_id in chunk)
    return Purged(runs=len(wholes), rows=count, run_ids=run_ids, machines=tuple(sorted(machines)))


def _machines(connection: Connection, run_ids: Sequence[str]) -> set[str]:
    """The machines in the addresses of kept files of runs."""
    found: set[str] = set()
    for column in (rows.c.workspace_url, rows.c.diff_url):
        named = select(column).where(rows.c.run_id.in_(run_ids), column.like("file://%"))
        urls: list[str] = list(connection.execute(named.distinct()).scalars())
        found |= {urlsplit(url).netloc for url in urls}
    return found - {""}


def has_references(connection: Connection, run_id: str) -> bool:
    """Whether rows of other runs name files of a run, whose answers they reuse."""
    names = or_(
        *(column.contains(f"/{run_id}/", autoescape=True) for column in (rows.c.diff_url, rows.c.artifacts))
    )
    query = select(rows.c.row_id).where(rows.c.run_id != run_id, names).limit(1)
    return connection.execute(query).first() is not None


def remove_texts(
    connection: Connection, run_ids: Sequence[str], kinds: Collection[str], now: datetime
) -> None:
    """Remove texts of runs: ``prompts``, ``answers`` or ``traces``. A row without an answer is not reused."""
    if "prompts" in kinds:
        connection.execute(_update(rows, run_ids).values(dict.fromkeys(SENT_COLUMNS, null())))
    if "answers" in kinds:
        connection.execute(_update(rows, run_ids).values(**_without_texts("answers")))
        connection.execute(_update(gold_values, run_ids).values(value=null()))
        texts = ("answer", "response", "note", "previous_response", "previous_structured")
        connection.execute(_update(reviews, run_ids).values(dict.fromkeys(texts, null())))
    if "traces" in kinds:
        connection.execute(_update(sessions, run_ids).values(messages=null()))
        of_runs = select(attempts.c.attempt_id).where(attempts.c.run_id.in_(run_ids))
        retries = update(inner_retries).where(inner_retries.c.attempt_id.in_(of_runs))
        connection.execute(retries.values(message=null()))
    connection.execute(_update(runs, run_ids).values(purged_at=now))


def _remove_quotes(connection: Connection, message: Column[str], id_column: Column[Any], run_id: str) -> None:
    """Remove what the messages of a column repeat of the prompts, as providers do that refuse one."""
    table = message.table
    query = (
        select(id_column, message, rows.c.prompt)
        .where(table.c.run_id == run_id, message.is_not(None), rows.c.prompt.is_not(None))
        .where(rows.c.run_id == table.c.run_id, rows.c.row_id == table.c.row_id)
        .execution_options(yield_per=ROWS_PER_READ)
    )
    # Of the prompts, which may be long, only a few are in memory at a time.
    changed = [
        (key, without)
        for key, text, prompt in connection.execute(query)
        if (without := without_quotes(text, prompt, PROMPT_MARK)) != text
    ]
    for key, without in changed:
        of_message = update(table).where(table.c.run_id == run_id, id_column == key)
        connection.execute(of_message.values({message: without}))


def _remove_system_text(connection: Connection, run_id: str) -> None:
    """Remove the system text of a run as it was sent: it may contain examples, which are prompts."""
    is_run = runs.c.run_id == run_id
    parameters = mapping_in(connection.execute(select(runs.c.parameters).where(is_run)).scalar_one_or_none())
    if SYSTEM_TEXT in parameters:
        kept = {name: value for name, value in parameters.items() if name != SYSTEM_TEXT}
        connection.execute(update(runs).where(is_run).values(parameters=kept))


def _remove_kept_texts(connection: Connection, run_id: str, kinds: Collection[str], now: datetime) -> None:
    if "prompts" in kinds:
        for message, id_column in MESSAGES:
            _remove_quotes(connection, message, id_column, run_id)
        _remove_system_text(connection, run_id)
    remove_texts(connection, [run_id], kinds, now)


def _update(table: Table, run_ids: Sequence[str]) -> Any:
    return update(table).where(table.c.run_id.in_(run_ids))


def _replace_ids(connection: Connection, run_ids: Sequence[str]) -> None:
    of_parts = connection.execute(
        select(runs.c.run_id).where(runs.c.run_id.in_(run_ids), runs.c.parent_run_id.is_not(None))
    )
    parts = list(of_parts.scalars())
    for ids in (parts, [run_id for run_id in run_ids if run_id not in set(parts)]):
        for table in (usage, sessions, attempts, gold_values, reviews, rows):
            has_own_id = table.c.row_id.not_like(f"{PURGED_ID}%")
            new_id = _new_id(table.c.run_id, table.c.row_id)
            connection.execute(_update(table, ids).where(has_own_id).values(row_id=new_id))


def _replace_source_ids(connection: Connection, run_ids: Sequence[str]) -> None:
    """Replace the ids of rows of these runs where other rows name them as the source of their answers."""
    has_own_id = rows.c.source_row_id.not_like(f"{PURGED_ID}%")
    new_id = _new_id(rows.c.source_run_id, rows.c.source_row_id)
    of_runs = update(rows).where(rows.c.source_run_id.in_(run_ids), has_own_id)
    connection.execute(of_runs.values(source_row_id=new_id))


def _new_id(run_id: Column[str], row_id: Column[str]) -> ColumnElement[str]:
    """The id that replaces the one of a row: its number in its run, of a row of a part in the whole run."""
    own, of_whole, run = rows.alias("own"), rows.alias("of_whole"), runs.alias("run")
    own_position = select(own.c.position).where(own.c.run_id == run_id, own.c.row_id == row_id)
    position = (
        select(of_whole.c.position)
        .join(run, run.c.parent_run_id == of_whole.c.run_id)
        .where(run.c.run_id == run_id, of_whole.c.row_id == row_id)
    )
    is_canary = exists().where(run.c.run_id == run_id, run.c.part == CANARY_PART)
    own_number = cast(own_position.scalar_subquery(), Text)
    number = func.coalesce(cast(position.scalar_subquery(), Text), own_number)
    return literal(PURGED_ID).concat(case((is_canary, literal("canary ").concat(own_number)), else_=number))


class Retention(Group):
    """``ledger.retention``: remove texts and ids."""

    def remove_texts(self, run_id: str, kinds: Collection[str], *, now: datetime) -> None:
        """Remove texts of a run: ``prompts``, ``answers`` or ``traces``. Tokens and costs stay.

        With the prompts goes what the messages of providers repeat of them.
        """
        if kinds:
            self.database.write(lambda connection: _remove_kept_texts(connection, run_id, kinds, now))

    def has_references(self, run_id: str) -> bool:
        """Whether rows of other runs name files of a run, whose answers they reuse."""
        return self.database.read(lambda connection: has_references(connection, run_id))

    def purge(self, before: datetime, *, texts_only: bool, now: datetime) -> Purged:
        """Remove the texts of runs that ended before a time; unfinished runs are not changed.

        Texts are prompts, answers, traces, messages of providers and the parameters of a run. Without
        ``texts_only`` a number replaces the id of each row, which may name a person. Tokens, costs,
        models, labels, deployments and error types stay, and of the rows of a series a digest of
        the id, so that they are not sent again. The names of persons who reviewed answers stay too.
        """
        purged = self.database.write(
            lambda connection: purge_runs(connection, before, texts_only=texts_only, now=now)
        )
        self.database.reclaim_space()
        return purged
