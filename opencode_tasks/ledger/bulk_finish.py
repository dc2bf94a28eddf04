"""Finish many completed rows in a few statements.

The common case is written in bulk: the first attempt of a row, under a valid lease. All other rows
are finished one at a time by ``finish.finish_row``; a test checks that both write the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from opencode_tasks.domain.columns import STORED
from opencode_tasks.ledger.budgets import unreported_pico
from opencode_tasks.ledger.finish import FinishedRow, finish_row
from opencode_tasks.ledger.leases import release_all
from opencode_tasks.ledger.reuse import copy_to_equal_rows
from opencode_tasks.ledger.schema import attempts, leases, rows, runs
from opencode_tasks.ledger.usage import write_usage
from opencode_tasks.ledger.usage_sums import record_totals


def finish_rows(connection: Connection, finished: Sequence[FinishedRow]) -> list[bool]:
    """Finish rows; for each, in order, False if its lease was lost and only the attempt was written."""
    before = _locked(connection, finished)
    common = [row for row in finished if _is_common(row, before.get(row.attempt_id))]
    _finish_common(connection, common, before)
    written = {id(row) for row in common}
    return [id(row) in written or finish_row(connection, row) for row in finished]


_attempt_count = (
    select(func.count())
    .where(attempts.c.run_id == rows.c.run_id, attempts.c.row_id == rows.c.row_id)
    .correlate(rows)
    .scalar_subquery()
)
_LOCKED = (
    select(
        attempts.c.attempt_id,
        attempts.c.row_key,
        attempts.c.ended_at,
        attempts.c.started_at,
        attempts.c.reserved_pico,
        attempts.c.spent_pico,
        attempts.c.max_call_pico,
        rows.c.status.label("row_status"),
        leases.c.fence,
        _attempt_count.label("attempts"),
    )
    .join(rows, (rows.c.run_id == attempts.c.run_id) & (rows.c.row_id == attempts.c.row_id))
    .join(leases, leases.c.row_key == attempts.c.row_key)
    .where(attempts.c.attempt_id.in_(bindparam("ids", expanding=True)))
    .order_by(attempts.c.row_key)
    .with_for_update(of=(rows, leases))
)


def _locked(connection: Connection, finished: Sequence[FinishedRow]) -> dict[str, Mapping[Any, Any]]:
    """The attempts as they are now, their rows and leases locked until the transaction ends."""
    ids = [row.attempt_id for row in finished]
    return {found["attempt_id"]: found for found in connection.execute(_LOCKED, {"ids": ids}).mappings()}


def _is_common(row: FinishedRow, before: Mapping[Any, Any] | None) -> bool:
    return (
        row.answer is not None
        and before is not None
        and before["ended_at"] is None
        and before["row_status"] == "open"
        and before["fence"] == row.lease.fence
        and before["attempts"] == 1
        and not before["spent_pico"]
    )


_END_ATTEMPT = (
    attempts.update()
    .where(attempts.c.attempt_id == bindparam("of_attempt"))
    .values(
        session_id=func.coalesce(attempts.c.session_id, bindparam("new_session")),
        usage_known=bindparam("new_usage_known"),
        ended_at=bindparam("new_ended_at"),
        exit_code=bindparam("new_exit_code"),
        status="completed",
        reserved_pico=bindparam("new_reserved"),
        spent_pico=bindparam("new_spent"),
    )
)


def _finish_common(
    connection: Connection, finished: Sequence[FinishedRow], before: Mapping[str, Mapping[Any, Any]]
) -> None:
    if not finished:
        return
    spending = [_spending(row, before[row.attempt_id]) for row in finished]
    connection.execute(
        _END_ATTEMPT,
        [
            {
                "of_attempt": row.attempt_id,
                "new_session": row.record.session_id,
                "new_usage_known": row.record.usage_known,
                "new_ended_at": row.now,
                "new_exit_code": row.record.exit_code,
                "new_reserved": reserved,
                "new_spent": spent,
            }
            for row, (spent, reserved) in zip(finished, spending, strict=True)
        ],
    )
    write_usage(
        connection,
        [
            (
                row.record,
                {"attempt_id": row.attempt_id, "run_id": row.run_id, "row_id": row.row_id},
                row.lease.row_key,
            )
            for row in finished
        ],
    )
    connection.execute(_WRITE_OUTCOME, [_outcome_values(row, before[row.attempt_id]) for row in finished])
    _count_spending(connection, finished, spending, before)
    _copy_to_equal_rows(connection, finished)
    release_all(connection, [row.lease for row in finished])


def _spending(row: FinishedRow, before: Mapping[Any, Any]) -> tuple[int, int]:
    """Pico-dollars that the attempt spent, and those that stay reserved for its unknown part."""
    costs = [step.usage.cost_pico for step in row.record.steps]
    spent = sum(cost or 0 for cost in costs)
    if row.record.usage_known and None not in costs:
        return spent, 0
    return spent, unreported_pico(before["reserved_pico"], spent, costs.count(None), before["max_call_pico"])


_ROW_COLUMNS = (
    *(column.ledger_name for column in STORED if column.name != "reused"),
    *("started_at", "completed_at"),
)
_WRITE_OUTCOME = (
    rows.update()
    .where(rows.c.run_id == bindparam("of_run"), rows.c.row_id == bindparam("of_row"))
    .values(**{name: bindparam(f"new_{name}", type_=rows.c[name].type) for name in _ROW_COLUMNS})
)


def _outcome_values(row: FinishedRow, before: Mapping[Any, Any]) -> dict[str, Any]:
    started = before["started_at"]
    values = {
        **row.outcome.columns,
        **record_totals(row.record),
        "attempts": 1,
        "started_at": started,
        "completed_at": row.now,
        "duration_s": (row.now - started).total_seconds(),
    }
    return {
        "of_run": row.run_id,
        "of_row": row.row_id,
        **{f"new_{name}": values[name] for name in _ROW_COLUMNS},
    }


_COUNT_SPENDING = (
    runs.update()
    .where(runs.c.run_id == bindparam("of_run"))
    .values(
        spent_pico=runs.c.spent_pico + bindparam("spent"),
        reserved_pico=runs.c.reserved_pico + bindparam("reserved"),
    )
)


def _count_spending(
    connection: Connection,
    finished: Sequence[FinishedRow],
    spending: Sequence[tuple[int, int]],
    before: Mapping[str, Mapping[Any, Any]],
) -> None:
    """Move the amounts of these attempts from reserved to spent in the counters of their runs."""
    by_run: dict[str, tuple[int, int]] = {}
    for row, (cost, left) in zip(finished, spending, strict=True):
        spent, reserved = by_run.get(row.run_id, (0, 0))
        by_run[row.run_id] = (spent + cost, reserved + left - before[row.attempt_id]["reserved_pico"])
    for run_id, (spent, reserved) in by_run.items():
        if spent or reserved:
            connection.execute(_COUNT_SPENDING, {"of_run": run_id, "spent": spent, "reserved": reserved})


_KEYS_OF_OPEN_ROWS = select(rows.c.row_key).where(
    rows.c.run_id == bindparam("of_run"),
    rows.c.row_key.in_(bindparam("keys", expanding=True)),
    rows.c.status == "open",
)


def _copy_to_equal_rows(connection: Connection, finished: Sequence[FinishedRow]) -> None:
    """Copy the outcomes to the open rows of their runs with the same keys."""
    by_run: dict[str, list[FinishedRow]] = {}
    for row in finished:
        by_run.setdefault(row.run_id, []).append(row)
    for run_id, group in by_run.items():
        keys = [row.lease.row_key for row in group]
        open_keys = set(connection.execute(_KEYS_OF_OPEN_ROWS, {"of_run": run_id, "keys": keys}).scalars())
        for row in group:
            if row.lease.row_key in open_keys:
                copy_to_equal_rows(connection, run_id, row.row_id, row.lease.row_key, row.now)
