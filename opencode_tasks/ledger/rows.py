"""Rows of a run outside a lease: add, count, reuse, fail, skip and hold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, case, exists, func, select, true

from opencode_tasks.domain.records import RowInput
from opencode_tasks.domain.work import WorkspaceSource
from opencode_tasks.ledger.clock import lease_time
from opencode_tasks.ledger.column_types import storable
from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.finish import fail_rows
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.reuse import reuse_answers
from opencode_tasks.ledger.schema import HELD, attempts, flow_runs, leases, rows
from opencode_tasks.ledger.usage_sums import SUM_COLUMNS

ROWS_PER_INSERT = 5000


def insert_rows(connection: Connection, run_id: str, inputs: Iterable[RowInput]) -> None:
    """Write rows of a run as open; existing ones are not changed."""
    statement = insert_into(connection, rows).on_conflict_do_nothing()
    connection.execute(statement, [_new_row(run_id, row) for row in inputs])


def _new_row(run_id: str, row: RowInput) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "row_id": row.row_id,
        "position": row.position,
        "row_key": row.row_key,
        "prompt": row.prompt,
        "system": row.system,
        "workspace": None if row.workspace is None else row.workspace.to_json(),
        "files": [file.to_json() for file in row.files] or None,
        # PostgreSQL's JSON functions, which the views call, refuse NUL.
        "labels": {storable(name): storable(value) for name, value in row.labels.items()},
    }


def row_keys(connection: Connection, run_id: str) -> frozenset[str]:
    """The keys of a run's rows."""
    return frozenset(connection.execute(select(rows.c.row_key).where(rows.c.run_id == run_id)).scalars())


def keys_to_send(connection: Connection, run_id: str) -> list[str]:
    """The keys of the open rows of a run, each once, in the order of their first rows."""
    query = (
        select(rows.c.row_key)
        .where(rows.c.run_id == run_id, rows.c.status == "open")
        .group_by(rows.c.row_key)
        .order_by(func.min(rows.c.position))
    )
    return list(connection.execute(query).scalars())


def _set_status(
    connection: Connection, run_id: str, old: str, new: str, condition: ColumnElement[bool]
) -> None:
    is_old = (rows.c.run_id == run_id) & (rows.c.status == old)
    connection.execute(rows.update().where(is_old, condition).values(status=new))


def held_chars(connection: Connection, run_id: str) -> list[int]:
    """The lengths in characters of the texts of rows that are held back, one row of each key."""
    chars = func.length(rows.c.prompt) + func.coalesce(func.length(rows.c.system), 0)
    query = (
        select(func.min(chars)).where(rows.c.run_id == run_id, rows.c.status == HELD).group_by(rows.c.row_key)
    )
    return list(connection.execute(query).scalars())


def workspaces(connection: Connection, run_id: str | None, flow_run_id: str | None) -> list[WorkspaceSource]:
    """The sources of the workspaces of a run, or of the runs of a flow run, each once; None for none."""
    of_flow_run = select(flow_runs.c.run_id).where(flow_runs.c.flow_run_id == flow_run_id)
    is_of_run = rows.c.run_id == run_id if run_id is not None else rows.c.run_id.in_(of_flow_run)
    query = select(rows.c.workspace).where(is_of_run, rows.c.workspace.is_not(None))
    found = (WorkspaceSource.from_json(value) for value in connection.execute(query).scalars())
    return list(dict.fromkeys(found))


def count_open(connection: Connection, run_id: str) -> int:
    """The number of open rows of a run."""
    query = select(func.count()).where(rows.c.run_id == run_id, rows.c.status == "open")
    return connection.execute(query).scalar_one()


def hold_open(
    connection: Connection, run_id: str, *, error_type: str, error_message: str, until: datetime | None
) -> None:
    """Write on the open rows of a run what they wait for: until a time, or until a person acts (None).

    Rows that already wait until a time are not changed, and a row keeps the error of its last attempt.
    """
    connection.execute(
        rows.update()
        .where(rows.c.run_id == run_id, rows.c.status == "open", rows.c.waits_until.is_(None))
        .values(
            error_type=func.coalesce(rows.c.error_type, error_type),
            error_message=func.coalesce(rows.c.error_message, error_message),
            waits_until=until,
        )
    )


def skip_open(
    connection: Connection, run_id: str, *, error_type: str, error_message: str, now: datetime
) -> int:
    """Skip every open row of a run, those held back included; returns the number of skipped rows."""
    ended = {"status": "skipped", "error_type": error_type, "error_message": error_message}
    return _end_open(connection, run_id, true(), ended, now)


def fail_open(
    connection: Connection, run_id: str, *, error_type: str, error_message: str, now: datetime
) -> int:
    """Fail every open row of a run that no worker processes; returns the number of failed rows.

    Rows that are held back are among them.
    """
    is_leased = exists().where(
        leases.c.row_key == rows.c.row_key, leases.c.expires_at > lease_time(connection)
    )
    ended = {"status": "failed", "error_type": error_type, "error_message": error_message}
    return _end_open(connection, run_id, ~is_leased, ended, now)


def _end_open(
    connection: Connection,
    run_id: str,
    condition: ColumnElement[bool],
    ended: Mapping[str, str],
    now: datetime,
) -> int:
    """Finish the open rows of a run that meet a condition. The totals of their attempts are written."""
    has_attempts = exists().where(attempts.c.run_id == rows.c.run_id, attempts.c.row_id == rows.c.row_id)
    zeros = {name: case((has_attempts, rows.c[name]), else_=0) for name in SUM_COLUMNS}
    is_open = rows.c.status.in_(("open", HELD))
    statement = rows.update().where(rows.c.run_id == run_id, is_open, condition)
    return connection.execute(statement.values(**ended, waits_until=None, completed_at=now, **zeros)).rowcount


def _spans(count: int) -> Iterator[range]:
    return (range(start, start + ROWS_PER_INSERT) for start in range(0, count, ROWS_PER_INSERT))


def _positions(span: range) -> ColumnElement[bool]:
    return (rows.c.position >= span.start) & (rows.c.position < span.stop)


class Rows(Group):
    """``ledger.rows``: rows of a run that no worker is processing."""

    def add(self, run_id: str, inputs: Iterable[RowInput]) -> None:
        """Write rows of a run as open; existing ones are not changed.

        Each transaction writes a part of them: other runs can extend their leases in between.
        """
        remaining = iter(inputs)
        while chunk := list(islice(remaining, ROWS_PER_INSERT)):
            self.database.write(lambda connection, chunk=chunk: insert_rows(connection, run_id, chunk))

    def fail(self, run_id: str, errors: Mapping[str, tuple[str, str]], *, now: datetime) -> None:
        """Fail rows by ``fail_rows``. Each transaction writes a part of them."""
        remaining = iter(errors.items())
        while chunk := dict(islice(remaining, ROWS_PER_INSERT)):
            self.database.write(lambda connection, chunk=chunk: fail_rows(connection, run_id, chunk, now=now))

    def hold_back(self, run_id: str, sent_keys: Sequence[str], *, rows_in_run: int) -> None:
        """Keep the open rows of a run from being sent until ``release``, except those with these keys."""
        self._change(run_id, "open", HELD, [_positions(span) for span in _spans(rows_in_run)])
        chunks = [sent_keys[at : at + ROWS_PER_INSERT] for at in range(0, len(sent_keys), ROWS_PER_INSERT)]
        self._change(run_id, HELD, "open", [rows.c.row_key.in_(chunk) for chunk in chunks])

    def release(self, run_id: str, *, rows_in_run: int) -> None:
        """Open the rows that ``hold_back`` kept from being sent."""
        self._change(run_id, HELD, "open", [_positions(span) for span in _spans(rows_in_run)])

    def _change(self, run_id: str, old: str, new: str, parts: Sequence[ColumnElement[bool]]) -> None:
        for part in parts:
            self.database.write(lambda connection, part=part: _set_status(connection, run_id, old, new, part))

    keys: Final = read(row_keys)
    keys_to_send: Final = read(keys_to_send)
    held_chars: Final = read(held_chars)
    count_open: Final = read(count_open)
    workspaces: Final = read(workspaces)
    reuse_answers: Final = write(reuse_answers)
    fail_open: Final = write(fail_open)
    skip_open: Final = write(skip_open)
    hold_open: Final = write(hold_open)
