"""Votes on the rows of a run: read what its parts answered, and write the answer that has the majority.

A run with votes sends nothing. Each of its parts is a run over the rows whose majority is open, and the rows
of the run are held until they are decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, func, or_, select

from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.ledger.operation_groups import Group, read
from opencode_tasks.ledger.part_answers import answers_of_parts, part_names
from opencode_tasks.ledger.reuse import REUSED_COLUMNS
from opencode_tasks.ledger.runs import PREPARING, UNFINISHED
from opencode_tasks.ledger.schema import CANARY_PART, HELD, SENT_COLUMNS, gold_values, rows, runs

ROWS_PER_UPDATE = 5000
# The columns of a decided row that come from one vote.
CHOSEN_COLUMNS = tuple(
    name for name in REUSED_COLUMNS if name not in (*TOKEN_COLUMNS, "cost_pico", "cost_source")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a run: a run over some of its rows, or 0 over its canaries.

    ``part`` is its number, ``title`` its name for people.
    """

    run_id: str
    part: int
    status: str
    title: str

    @property
    def is_unfinished(self) -> bool:
        """Whether it may have open rows."""
        return self.status in UNFINISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidedRow:
    """The outcome of a row by its votes: columns of ``rows`` with their values."""

    row_id: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteCounts:
    """Votes of a run: ``asked`` of rows in its parts, of which ``reused`` have an earlier answer.

    ``rows`` are those that have votes or wait for them, ``ties`` and ``agreement`` (the mean) those of the
    decided ones; the latter is None without one. ``to_stronger`` rows went to the stronger model, which gave
    the answer of ``escalated`` ones.
    """

    rows: int
    asked: int
    reused: int
    ties: int
    agreement: float | None
    to_stronger: int
    escalated: int


_whole = runs.alias("whole")
_of_run = rows.alias("of_run")
_IS_WRITTEN = runs.c.status != PREPARING
_IS_VOTE = _IS_WRITTEN & (runs.c.part > CANARY_PART)


def family(run_id: Any) -> Select[Any]:
    """The ids of a run and of its parts."""
    return select(runs.c.run_id).where(or_(runs.c.run_id == run_id, runs.c.parent_run_id == run_id))


def parts(connection: Connection, run_id: str) -> list[Part]:
    """The parts of a run, in the order in which they began; none for a run without votes.

    A part whose rows are not all written is left out: it has sent nothing.
    """
    query = (
        select(runs.c.run_id, runs.c.part, runs.c.status)
        .where(runs.c.parent_run_id == run_id, _IS_WRITTEN)
        .order_by(runs.c.part, runs.c.created_at)
    )
    names = part_names(connection, run_id)
    return [Part(**found, title=names.title(found["part"])) for found in connection.execute(query).mappings()]


def asked_positions(connection: Connection, run_id: str, part: int) -> list[int]:
    """The positions in the run of the rows that a part with this number has."""
    query = (
        select(_of_run.c.position)
        .join(rows, rows.c.row_id == _of_run.c.row_id)
        .join(runs, runs.c.run_id == rows.c.run_id)
        .where(_of_run.c.run_id == run_id, runs.c.parent_run_id == run_id, runs.c.part == part, _IS_VOTE)
    )
    return list(connection.execute(query).scalars())


def positions_of_part(connection: Connection, run_id: str, part_id: str) -> list[int]:
    """The positions in the run of the rows of one of its parts, in order."""
    query = (
        select(_of_run.c.position)
        .join(rows, rows.c.row_id == _of_run.c.row_id)
        .where(_of_run.c.run_id == run_id, rows.c.run_id == part_id)
        .order_by(rows.c.position)
    )
    return list(connection.execute(query).scalars())


def undecided(connection: Connection, run_id: str) -> list[int]:
    """The positions of the rows of a run whose majority is open."""
    query = select(rows.c.position).where(rows.c.run_id == run_id, rows.c.status == HELD)
    return list(connection.execute(query.order_by(rows.c.position)).scalars())


_IS_UNDECIDED = (
    (_of_run.c.run_id == bindparam("run"))
    & (_of_run.c.status == HELD)
    & (_of_run.c.position >= bindparam("start"))
    & (_of_run.c.position < bindparam("stop"))
)
_VOTES = (
    select(
        *(column for column in rows.c if column.name not in (*SENT_COLUMNS, "labels")),
        runs.c.part,
        _of_run.c.position.label("of_position"),
    )
    .select_from(_of_run)
    .join(runs, (runs.c.parent_run_id == _of_run.c.run_id) & _IS_VOTE)
    .join(rows, (rows.c.run_id == runs.c.run_id) & (rows.c.row_id == _of_run.c.row_id))
    .where(_IS_UNDECIDED, rows.c.status.not_in(("open", HELD)))
    .order_by(_of_run.c.position, runs.c.part, runs.c.created_at)
)


def votes_in(connection: Connection, run_id: str, span: range) -> dict[str, list[dict[str, Any]]]:
    """The votes that ended on the undecided rows of a run at these positions, in their order, by row id."""
    found: dict[str, list[dict[str, Any]]] = {}
    values = {"run": run_id, "start": span.start, "stop": span.stop}
    for vote in connection.execute(_VOTES, values).mappings():
        found.setdefault(vote["row_id"], []).append(dict(vote))
    return found


def votes_on(connection: Connection, run_id: str, row_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The votes on rows, in their order: ``part``, ``run_id`` and the columns of the outcome.

    ``is_stronger``: it is no vote, but the answer of the stronger model. ``title`` is the name of the part.
    """
    names = part_names(connection, run_id)
    query = (
        select(
            *(column for column in rows.c if column.name not in SENT_COLUMNS),
            runs.c.part,
            (runs.c.part > _whole.c.votes).label("is_stronger"),
        )
        .join(runs, runs.c.run_id == rows.c.run_id)
        .join(_whole, _whole.c.run_id == runs.c.parent_run_id)
        .where(runs.c.parent_run_id == run_id, runs.c.part > CANARY_PART, rows.c.row_id.in_(row_ids))
        .order_by(runs.c.part, runs.c.created_at)
    )
    return [{**vote, "title": names.title(vote["part"])} for vote in connection.execute(query).mappings()]


def _decide(connection: Connection, run_id: str, decided: Sequence[DecidedRow]) -> None:
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in decided:
        by_columns.setdefault(tuple(row.values), []).append({"of_row": row.row_id, **row.values})
    statement = rows.update().where(
        rows.c.run_id == run_id, rows.c.row_id == bindparam("of_row"), rows.c.status == HELD
    )
    for same_columns in by_columns.values():
        connection.execute(statement, same_columns)


def counts(connection: Connection, run_id: str) -> VoteCounts:
    """Counts of the votes of a run."""
    is_vote = runs.c.part <= select(_whole.c.votes).where(_whole.c.run_id == run_id).scalar_subquery()
    of_parts = (
        select(
            func.count().filter(is_vote, rows.c.status != "skipped"),
            func.count().filter(is_vote, rows.c.reused),
            func.count(rows.c.row_id.distinct()).filter(~is_vote, rows.c.status != "skipped"),
        )
        .join(runs, runs.c.run_id == rows.c.run_id)
        .join(_of_run, (_of_run.c.run_id == run_id) & (_of_run.c.row_id == rows.c.row_id))
        .where(
            runs.c.parent_run_id == run_id,
            _IS_VOTE,
            or_(_of_run.c.votes.is_not(None), _of_run.c.status == HELD),
        )
    )
    asked, reused, to_stronger = connection.execute(of_parts).one()
    has_votes = or_(rows.c.votes.is_not(None), rows.c.status == HELD)
    of_run = select(
        func.count().filter(has_votes),
        func.count().filter(rows.c.needs_review),
        func.avg(rows.c.agreement),
        func.count().filter(rows.c.escalated),
    ).where(rows.c.run_id == run_id)
    total, ties, agreement, escalated = connection.execute(of_run).one()
    return VoteCounts(
        rows=total,
        asked=asked,
        reused=reused,
        ties=ties,
        agreement=None if agreement is None else float(agreement),
        to_stronger=to_stronger,
        escalated=escalated,
    )


def votes_before(connection: Connection, run_id: str, part: int) -> dict[str, list[dict[str, Any]]]:
    """The votes before a part on its rows with gold values, in their order, by row id."""
    of_part = (
        select(rows.c.row_id)
        .join(runs, runs.c.run_id == rows.c.run_id)
        .join(gold_values, (gold_values.c.run_id == run_id) & (gold_values.c.row_id == rows.c.row_id))
        .where(runs.c.parent_run_id == run_id, runs.c.part == part)
    )
    query = (
        select(
            *(rows.c[name] for name in ("row_id", "status", "response", "structured", "answered_by")),
            runs.c.part,
            rows.c.position.label("of_position"),
        )
        .join(runs, runs.c.run_id == rows.c.run_id)
        .where(
            runs.c.parent_run_id == run_id,
            runs.c.part > CANARY_PART,
            runs.c.part < part,
            rows.c.row_id.in_(of_part),
        )
        .order_by(rows.c.row_id, runs.c.part, runs.c.created_at)
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for vote in connection.execute(query).mappings():
        found.setdefault(vote["row_id"], []).append(dict(vote))
    return found


def decided_votes(connection: Connection, run_id: str, limit: int) -> list[str]:
    """The column ``votes`` of the first rows of a run that have it."""
    query = select(rows.c.votes).where(rows.c.run_id == run_id, rows.c.votes.is_not(None))
    return list(connection.execute(query.order_by(rows.c.position).limit(limit)).scalars())


class Votes(Group):
    """``ledger.votes``: several answers to each row of a run."""

    def decide(self, run_id: str, decided: Iterable[DecidedRow]) -> None:
        """Write the outcomes of held rows; each transaction writes a part of them."""
        remaining = iter(decided)
        while chunk := list(islice(remaining, ROWS_PER_UPDATE)):
            self.database.write(lambda connection, chunk=chunk: _decide(connection, run_id, chunk))

    parts: Final = read(parts)
    undecided: Final = read(undecided)
    asked: Final = read(asked_positions)
    positions: Final = read(positions_of_part)
    votes_in: Final = read(votes_in)
    before: Final = read(votes_before)
    counts: Final = read(counts)
    decided: Final = read(decided_votes)
    answers: Final = read(answers_of_parts)
    names: Final = read(part_names)
