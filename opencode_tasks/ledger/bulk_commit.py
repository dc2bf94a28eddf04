"""How many rows end at once: the outcomes of answered rows, in a handful of statements.

What is usual is written in bulk: the row's first attempt, its lease still held. Everything else goes
one by one, as ``commits.finish`` does it; a test holds that both leave the same behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from opencode_tasks.domain.records import AttemptRecord
from opencode_tasks.ledger import attempts as trials
from opencode_tasks.ledger import commit as commits
from opencode_tasks.ledger.commit import Outcome
from opencode_tasks.ledger.leases import Lease, give_back
from opencode_tasks.ledger.reuse import share
from opencode_tasks.ledger.schema import attempts, leases, rows, runs
from opencode_tasks.ledger.totals import SUMMED, cost_source, settled


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """A row that was answered, under which lease, and what its attempt bought."""

    lease: Lease
    attempt_id: str
    record: AttemptRecord
    run_id: str
    row_id: str
    outcome: Outcome
    now: datetime


def finish_answered(connection: Connection, ended: Sequence[Finish]) -> list[bool]:
    """End attempts and rows that were answered; for each, in order, False where its lease was lost."""
    before = _before(connection, ended)
    usual = [one for one in ended if _is_usual(one, before.get(one.attempt_id))]
    _end_usual(connection, usual, before)
    written = {id(one) for one in usual}
    return [
        id(one) in written
        or commits.finish(
            connection,
            lease=one.lease,
            attempt_id=one.attempt_id,
            record=one.record,
            run_id=one.run_id,
            row_id=one.row_id,
            outcome=one.outcome,
            error=None,
            now=one.now,
        )
        for one in ended
    ]


_tried = (
    select(func.count())
    .where(attempts.c.run_id == rows.c.run_id, attempts.c.row_id == rows.c.row_id)
    .correlate(rows)
    .scalar_subquery()
)
_found = (
    select(
        attempts.c.attempt_id,
        attempts.c.row_key,
        attempts.c.ended_at,
        attempts.c.started_at,
        attempts.c.reserved_pico,
        attempts.c.settled_pico,
        rows.c.status.label("row_status"),
        leases.c.fence,
        _tried.label("tried"),
    )
    .join(rows, (rows.c.run_id == attempts.c.run_id) & (rows.c.row_id == attempts.c.row_id))
    .join(leases, leases.c.row_key == attempts.c.row_key)
    .where(attempts.c.attempt_id.in_(bindparam("ids", expanding=True)))
    .order_by(attempts.c.row_key)
    .with_for_update(of=(rows, leases))
)


def _before(connection: Connection, ended: Sequence[Finish]) -> dict[str, Mapping[Any, Any]]:
    """The attempts as they stand, with their rows and leases, which nobody else can change from here."""
    ids = [one.attempt_id for one in ended]
    return {row["attempt_id"]: row for row in connection.execute(_found, {"ids": ids}).mappings()}


def _is_usual(one: Finish, before: Mapping[Any, Any] | None) -> bool:
    return (
        before is not None
        and before["ended_at"] is None
        and before["row_status"] == "open"
        and before["fence"] == one.lease.fence
        and before["tried"] == 1
        and not before["settled_pico"]
    )


_END_ATTEMPT = (
    attempts.update()
    .where(attempts.c.attempt_id == bindparam("new_attempt"))
    .values(
        session_id=func.coalesce(attempts.c.session_id, bindparam("new_session")),
        usage_known=bindparam("new_known"),
        ended_at=bindparam("new_ended"),
        exit_code=bindparam("new_code"),
        status="completed",
        reserved_pico=bindparam("new_left"),
        settled_pico=bindparam("new_cost"),
    )
)
_OUTCOME = ("response", "structured", "finish_reason", "session_id", "turns", "model_ref")
_WRITTEN = (
    *("status", *_OUTCOME, *SUMMED, "cost_source", "attempts", "started_at", "completed_at", "duration_s"),
)
_END_ROW = (
    rows.update()
    .where(rows.c.run_id == bindparam("of_run"), rows.c.row_id == bindparam("of_row"))
    .values(
        **{name: bindparam(f"new_{name}", type_=rows.c[name].type) for name in _WRITTEN},
        error_type=None,
        error_message=None,
        waits_until=None,
    )
)


def _end_usual(
    connection: Connection, ended: Sequence[Finish], before: Mapping[str, Mapping[Any, Any]]
) -> None:
    if not ended:
        return
    costs = [_settled(one, before[one.attempt_id]) for one in ended]
    connection.execute(
        _END_ATTEMPT,
        [
            {
                "new_attempt": one.attempt_id,
                "new_session": one.record.session_id,
                "new_known": one.record.usage_known,
                "new_ended": one.now,
                "new_code": one.record.exit_code,
                "new_left": left,
                "new_cost": cost,
            }
            for one, (cost, left) in zip(ended, costs, strict=True)
        ],
    )
    trials.write_usage(
        connection,
        [
            (
                one.record,
                {"attempt_id": one.attempt_id, "run_id": one.run_id, "row_id": one.row_id},
                one.lease.row_key,
            )
            for one in ended
        ],
    )
    connection.execute(_END_ROW, [_row_values(one, before[one.attempt_id]) for one in ended])
    _count_costs(connection, ended, costs, before)
    _share(connection, ended)
    give_back(connection, [one.lease for one in ended])


def _settled(one: Finish, before: Mapping[Any, Any]) -> tuple[int, int]:
    """What the attempt cost in pico-dollars, and what stays set aside for what is not known of it."""
    known = [step.usage.cost_pico for step in one.record.steps]
    cost = sum(pico or 0 for pico in known)
    is_known = one.record.usage_known and None not in known
    return cost, 0 if is_known else max(0, before["reserved_pico"] - cost)


def _row_values(one: Finish, before: Mapping[Any, Any]) -> dict[str, Any]:
    started = before["started_at"]
    values = {
        "status": one.outcome.status,
        **{name: getattr(one.outcome, name) for name in _OUTCOME},
        **totals_of(one.record),
        "attempts": 1,
        "started_at": started,
        "completed_at": one.now,
        "duration_s": (one.now - started).total_seconds(),
    }
    return {"of_run": one.run_id, "of_row": one.row_id, **{f"new_{name}": values[name] for name in _WRITTEN}}


def totals_of(record: AttemptRecord) -> dict[str, Any]:
    """The token columns, ``cost_pico`` and ``cost_source`` of a row with this one attempt."""
    steps = record.steps
    found: dict[str, Any] = {
        "steps": len(steps),
        **{source: any(step.cost_source == source for step in steps) for source in ("unpriced", "computed")},
    }
    for name in SUMMED:
        values = [value for step in steps if (value := getattr(step.usage, name)) is not None]
        found |= {name: sum(values), f"known_{name}": len(values)}
    totals = settled(found, 0 if record.usage_known else 1)
    is_free = not steps and totals["cost_pico"] == 0
    return {**totals, "cost_source": cost_source(found) if steps or is_free else None}


_COUNT = (
    runs.update()
    .where(runs.c.run_id == bindparam("of_run"))
    .values(
        spent_pico=runs.c.spent_pico + bindparam("spent"),
        reserved_pico=runs.c.reserved_pico + bindparam("reserved"),
    )
)


def _count_costs(
    connection: Connection,
    ended: Sequence[Finish],
    costs: Sequence[tuple[int, int]],
    before: Mapping[str, Mapping[Any, Any]],
) -> None:
    """Move what was set aside in the runs' counters to what was spent."""
    by_run: dict[str, tuple[int, int]] = {}
    for one, (cost, left) in zip(ended, costs, strict=True):
        spent, reserved = by_run.get(one.run_id, (0, 0))
        by_run[one.run_id] = (spent + cost, reserved + left - before[one.attempt_id]["reserved_pico"])
    for run_id, (spent, reserved) in by_run.items():
        if spent or reserved:
            connection.execute(_COUNT, {"of_run": run_id, "spent": spent, "reserved": reserved})


_TWINS = select(rows.c.row_key).where(
    rows.c.run_id == bindparam("of_run"),
    rows.c.row_key.in_(bindparam("keys", expanding=True)),
    rows.c.status == "open",
)


def _share(connection: Connection, ended: Sequence[Finish]) -> None:
    """Copy outcomes to the open rows of their runs that have the same keys."""
    by_run: dict[str, list[Finish]] = {}
    for one in ended:
        by_run.setdefault(one.run_id, []).append(one)
    for run_id, some in by_run.items():
        keys = [one.lease.row_key for one in some]
        twins = set(connection.execute(_TWINS, {"of_run": run_id, "keys": keys}).scalars())
        for one in some:
            if one.lease.row_key in twins:
                share(connection, run_id, one.row_id, one.lease.row_key, one.now)
