"""The end of attempts and of their rows. A single one is written in the same way as many.

The end of an attempt and its usage are always recorded. Its row changes only under a valid lease.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Update, bindparam, exists, select

from opencode_tasks.domain.records import AttemptRecord
from opencode_tasks.domain.sandbox import RelayCount
from opencode_tasks.errors import OpenCodeError, RateLimitError
from opencode_tasks.ledger.budgets import Amounts, amounts, count_amounts
from opencode_tasks.ledger.leases import Lease, release_all
from opencode_tasks.ledger.reuse import copy_to_equal_rows
from opencode_tasks.ledger.row_outcomes import RowChange, failed_unsent, message_of
from opencode_tasks.ledger.schema import attempts, leases, row_update, rows
from opencode_tasks.ledger.usage import write_usage
from opencode_tasks.ledger.usage_sums import attempts_with_sums, row_totals


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedAttempt:
    """An attempt that ended, and the change of its row.

    - ``record``: what the attempt left, its steps priced; ``error``: its error, None for an answer.
    - ``now``: time of the end.
    - ``lease``: the lease under which the row was sent, which is released. None without one.
    - ``row``: change of the row if the lease is valid (``ledger/row_outcomes.py``); None for none.
    - ``is_outage``: the attempt does not count against ``max_attempts``.
    """

    attempt_id: str
    record: AttemptRecord
    now: datetime
    lease: Lease | None = None
    error: OpenCodeError | None = None
    row: RowChange | None = None
    is_outage: bool = False


def end_attempts(connection: Connection, ends: Sequence[EndedAttempt]) -> list[bool]:
    """Write the ends and the usage of attempts, and what becomes of their rows.

    The tokens, cost and attempts of a row are those of all its attempts. Open rows of the run with the
    same key receive a final outcome as reused. A second record of an attempt fills in what was unknown
    (the usage of a recovered session) and changes nothing that is known.

    Returns for each attempt, in order, False if another owner has the lease now: the attempt is recorded
    then, and its row is not changed. Raises LookupError if there is no such attempt.
    """
    valid: list[bool] = []
    while remaining := ends[len(valid) :]:
        before = _locked(connection, remaining)
        group = _leading_group(remaining, before)
        valid += _end_group(connection, group, [before[end.attempt_id] for end in group])
    return valid


_other = rows.alias("other")
_has_equal = exists().where(
    _other.c.row_key == attempts.c.row_key,
    _other.c.status == "open",
    _other.c.run_id == attempts.c.run_id,
    _other.c.row_id != attempts.c.row_id,
)
_LOCKED = (
    select(
        *(
            attempts.c[name]
            for name in ("attempt_id", "run_id", "row_id", "row_key", "session_id", "ended_at")
        ),
        rows.c.status.label("row_status"),
        rows.c.reused,
        leases.c.fence,
        _has_equal.label("has_equal"),
    )
    .join(rows, (rows.c.run_id == attempts.c.run_id) & (rows.c.row_id == attempts.c.row_id))
    .join(leases, leases.c.row_key == attempts.c.row_key)
    .where(attempts.c.attempt_id.in_(bindparam("ids", expanding=True)))
    .order_by(attempts.c.row_key)
    .with_for_update(of=(attempts, rows, leases))
)


def _locked(connection: Connection, ends: Sequence[EndedAttempt]) -> dict[str, RowMapping]:
    """The attempts as they are now; they, their rows and leases are locked until the transaction ends."""
    ids = [end.attempt_id for end in ends]
    found = {one["attempt_id"]: one for one in connection.execute(_LOCKED, {"ids": ids}).mappings()}
    if missing := [attempt_id for attempt_id in ids if attempt_id not in found]:
        raise LookupError(f"the ledger has no attempt {missing[0]!r}")
    return found


def _leading_group(ends: Sequence[EndedAttempt], before: Mapping[str, RowMapping]) -> Sequence[EndedAttempt]:
    """The first ends, as far as they are of one run and each has another key: none depends on another."""
    run_id, keys = before[ends[0].attempt_id]["run_id"], set[str]()
    for number, end in enumerate(ends):
        attempt = before[end.attempt_id]
        if attempt["run_id"] != run_id or attempt["row_key"] in keys:
            return ends[:number]
        keys.add(attempt["row_key"])
    return ends


def _end_group(
    connection: Connection, ends: Sequence[EndedAttempt], before: Sequence[RowMapping]
) -> list[bool]:
    run_id = before[0]["run_id"]
    write_usage(
        connection,
        [
            (end.record, {name: one[name] for name in ("attempt_id", "run_id", "row_id")}, one["row_key"])
            for end, one in zip(ends, before, strict=True)
        ],
    )
    is_known = {end.attempt_id: end.record.usage_known for end in ends}
    of_rows = attempts_with_sums(connection, run_id, [one["row_id"] for one in before], is_known)
    _write_ends(connection, run_id, ends, before, of_rows)
    has_lease = [
        end.lease is not None and end.lease.fence == one["fence"]
        for end, one in zip(ends, before, strict=True)
    ]
    changed: list[_ChangedRow] = []
    copied: list[tuple[str, str, datetime]] = []
    for end, one, is_valid in zip(ends, before, has_lease, strict=True):
        change = end.row if is_valid and one["row_status"] == "open" else None
        # A reused row shows the totals of its source.
        if change is not None or not one["reused"]:
            changed.append((one["row_id"], change, of_rows[one["row_id"]], end.now))
        if change is not None and change.is_final and one["has_equal"]:
            copied.append((one["row_id"], one["row_key"], end.now))
    _write_rows(connection, run_id, changed)
    copy_to_equal_rows(connection, run_id, copied)
    release_all(connection, [end.lease for end in ends if end.lease is not None])
    # If this is a repeated call, the first one was under a valid lease.
    return [
        is_valid or end.lease is None or (one["ended_at"] is not None and one["row_status"] != "open")
        for end, one, is_valid in zip(ends, before, has_lease, strict=True)
    ]


def _write_ends(
    connection: Connection,
    run_id: str,
    ends: Sequence[EndedAttempt],
    before: Sequence[RowMapping],
    of_rows: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Write the attempts, and move what they cost from reserved to spent."""
    found = {one["attempt_id"]: one for of_row in of_rows.values() for one in of_row}
    moved: list[tuple[Amounts, Amounts]] = []
    changes: list[dict[str, Any]] = []
    for end, one in zip(ends, before, strict=True):
        attempt = found[end.attempt_id]
        old, new = amounts(attempt)
        moved.append((old, new))
        values = {"of_attempt": end.attempt_id, "usage_known": attempt["usage_known"], **new._asdict()}
        if one["session_id"] is None:
            values["session_id"] = end.record.session_id
        if one["ended_at"] is None:
            values |= _end_values(end, one["fence"])
        changes.append(values)
    _update(connection, _OF_ATTEMPT, changes)
    count_amounts(connection, run_id, moved)


def _end_values(end: EndedAttempt, fence: int) -> dict[str, Any]:
    error = end.error
    values: dict[str, Any] = {
        "ended_at": end.now,
        # Without a lease it may have ended long before this, with its process.
        "ended_fence": None if end.lease is None else fence,
        "exit_code": end.record.exit_code,
        "is_outage": end.is_outage or None,
        **_relay_values(end.record.relay),
    }
    if error is None:
        return {**values, "status": "completed"}
    if error.node_id != "unknown":
        values["node_id"] = error.node_id
    return {
        **values,
        "status": "failed",
        "error_type": error.error_type,
        "error_message": message_of(error),
        "reset_time": error.reset_time if isinstance(error, RateLimitError) else None,
        "retry_after_s": error.retry_after,
    }


def _relay_values(count: RelayCount | None) -> dict[str, Any]:
    if count is None:
        return {}
    return {f"relay_{name}": value for name, value in asdict(count).items()}


_ChangedRow = tuple[str, RowChange | None, Sequence[Mapping[str, Any]], datetime]
"""The id of a row, its change, its attempts with their sums, and the time of the change."""


def _write_rows(connection: Connection, run_id: str, changed: Sequence[_ChangedRow]) -> None:
    """Write changes of rows of a run, and the totals of their attempts."""
    changes: list[dict[str, Any]] = []
    for row_id, change, of_row, now in changed:
        values: dict[str, Any] = {"of_run": run_id, "of_row": row_id, **row_totals(of_row)}
        if change is not None:
            values |= change.columns
        if change is not None and change.is_final:
            started = values["started_at"]
            values["completed_at"] = now
            values["duration_s"] = 0.0 if started is None else (now - started).total_seconds()
        changes.append(values)
    _update(connection, row_update, changes)


_OF_ATTEMPT = attempts.update().where(attempts.c.attempt_id == bindparam("of_attempt"))


def _update(connection: Connection, statement: Update, changes: Sequence[dict[str, Any]]) -> None:
    """Execute an update for each of the changes, which may have different columns."""
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for values in changes:
        by_columns[tuple(values)].append(values)
    for same_columns in by_columns.values():
        connection.execute(statement, same_columns)


def fail_rows(
    connection: Connection, run_id: str, errors: Mapping[str, tuple[str, str]], *, now: datetime
) -> None:
    """Fail open rows without a lease; the cost of their attempts stays.

    ``errors`` has the error type and the message of each row, by its id. For rows that are refused
    before their first attempt, or whose worker died too often.
    """
    query = select(rows.c.row_id).where(
        rows.c.run_id == run_id, rows.c.row_id.in_(list(errors)), rows.c.status == "open"
    )
    row_ids = list(connection.execute(query.with_for_update()).scalars())
    of_rows = attempts_with_sums(connection, run_id, row_ids)
    failures = [(row_id, failed_unsent(*errors[row_id]), of_rows[row_id], now) for row_id in row_ids]
    _write_rows(connection, run_id, failures)
