"""Sessions that attempts leave for the next attempt at their row, and the steps that are recorded of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, select

from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.schema import HELD, attempts, rows, usage


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierAttempt:
    """An attempt at a row that has ended.

    ``steps`` is the number of model calls that are recorded for it; those of a session that it continued
    are recorded for an earlier attempt. ``begins_anew`` is as in the ledger.
    """

    attempt: int
    attempt_id: str
    row_key: str
    session_id: str | None
    host: str | None
    data_dir: str | None
    error_type: str | None
    continues: int | None
    begins_anew: str | None
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStep:
    """A model call that is in the ledger; its cost in pico-dollars, None if it is unknown."""

    attempt_id: str
    session_id: str
    step_id: str
    finish_reason: str | None
    cost_pico: int | None


_NAMES = (
    *("attempt", "attempt_id", "row_key", "session_id", "host", "data_dir", "error_type"),
    *("continues", "begins_anew"),
)
_STEPS = (
    select(func.count()).where(usage.c.attempt_id == attempts.c.attempt_id).scalar_subquery().label("steps")
)


def earlier_attempts(connection: Connection, run_id: str, row_id: str, before: int) -> list[EarlierAttempt]:
    """The attempts at a row with a lower number that have ended, oldest first."""
    query = (
        select(*(attempts.c[name] for name in _NAMES), _STEPS)
        .where(
            attempts.c.run_id == run_id,
            attempts.c.row_id == row_id,
            attempts.c.attempt < before,
            attempts.c.ended_at.is_not(None),
        )
        .order_by(attempts.c.attempt, attempts.c.started_at)
    )
    return [EarlierAttempt(**line) for line in connection.execute(query).mappings()]


def recorded_steps(connection: Connection, run_id: str, row_id: str) -> list[RecordedStep]:
    """The model calls of all attempts at a row."""
    names = ("attempt_id", "session_id", "step_id", "finish_reason", "cost_pico")
    query = select(*(usage.c[name] for name in names)).where(
        usage.c.run_id == run_id, usage.c.row_id == row_id
    )
    return [RecordedStep(**line) for line in connection.execute(query).mappings()]


def record_start(
    connection: Connection, attempt_id: str, *, continues: int | None, begins_anew: str | None
) -> None:
    """Write how an attempt began: in the session of an earlier one, or anew for a reason."""
    values: dict[str, Any] = {"continues": continues, "begins_anew": begins_anew}
    connection.execute(attempts.update().where(attempts.c.attempt_id == attempt_id).values(values))


def without_successor(connection: Connection, attempt_ids: Collection[str]) -> list[str]:
    """Those of these attempts whose session no attempt will continue.

    Their row has ended, or a later attempt at it has another session. An id that the ledger does not have is
    not in the result: it can be that of another ledger.
    """
    later = attempts.alias("later")
    has_session = later.c.ended_at.is_not(None) & later.c.session_id.is_not(None)
    has_later = (
        select(later.c.attempt_id)
        .where(
            later.c.run_id == attempts.c.run_id,
            later.c.row_id == attempts.c.row_id,
            later.c.attempt > attempts.c.attempt,
            has_session | later.c.begins_anew.is_not(None),
        )
        .exists()
    )
    query = (
        select(attempts.c.attempt_id)
        .outerjoin(rows, (rows.c.run_id == attempts.c.run_id) & (rows.c.row_id == attempts.c.row_id))
        .where(
            attempts.c.attempt_id.in_(list(attempt_ids)),
            func.coalesce(rows.c.status, "completed").not_in(("open", HELD)) | has_later,
        )
    )
    return list(connection.execute(query).scalars())


class ContinuedSessions(Group):
    """``ledger.continued``: sessions that later attempts continue."""

    earlier_attempts: Final = read(earlier_attempts)
    recorded_steps: Final = read(recorded_steps)
    record_start: Final = write(record_start)
    without_successor: Final = read(without_successor)
