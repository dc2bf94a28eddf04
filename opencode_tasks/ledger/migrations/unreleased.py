"""Upgrade a ledger of the revisions 0001 to 0007, which existed before the first release.

The content of the old tables is copied into those of the first released schema. Rows, attempts,
usage, leases, gates and budgets are kept. The concurrency of the gates is not: it is found again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.schema import DDL

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
INITIAL = "0008"

VIEWS = (
    *("unreported_attempts", "failures_by_type", "cost_by_label", "cost_by_run", "cost_by_deployment"),
    *("cost_by_model", "cost_by_day", "cost_items"),
)
# The new table of each old one that is kept, and the names of its columns that changed.
KEPT: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "runs": ("runs", {}),
    "rows": ("rows", {}),
    "attempts": ("attempts", {"settled_pico": "spent_pico", "call_most_pico": "max_call_pico"}),
    "inner_retries": ("inner_retries", {}),
    "sessions": ("sessions", {}),
    "usage": ("usage", {}),
    "leases": ("leases", {"until": "expires_at", "heartbeat": "heartbeat_at"}),
    "gates": ("gates", {}),
    "answered": ("purged_rows", {}),
}
DROPPED = ("flow_runs", "paces", "pace_shares")

# What revisions before 0003 and 0004 did not record.
SPENT_BY_RUN = "select sum(usage.cost_pico) from usage where usage.run_id = runs.run_id"
SPENT_BY_ATTEMPT = (
    "select sum(usage.cost_pico) from usage where usage.run_id = attempts.run_id "
    "and usage.row_id = attempts.row_id and usage.attempt_id = attempts.attempt_id"
)
COMPUTED: Mapping[tuple[str, str], str] = {
    ("runs", "spent_pico"): f"update runs set spent_pico = coalesce(({SPENT_BY_RUN}), 0)",  # noqa: S608
    ("attempts", "settled_pico"): f"update attempts set spent_pico = coalesce(({SPENT_BY_ATTEMPT}), 0)",  # noqa: S608
    ("usage", "cost_reported_pico"): "update usage set cost_reported_pico = cost_pico "
    "where cost_source = 'reported'",
}


def upgrade(connection: sa.Connection, version_table: str, create: Callable[[str], None]) -> None:
    """Bring the ledger to the first released schema; ``create(revision)`` creates its tables."""
    for name in VIEWS:
        connection.execute(DDL(f"DROP VIEW IF EXISTS {name}"))
    old_columns = {name: _columns(connection, name) for name in KEPT if _has_table(connection, name)}
    flow_runs = _flow_runs(connection)
    for name in old_columns:
        copied = f"CREATE TEMPORARY TABLE old_{name} AS SELECT * FROM {name}"  # noqa: S608
        connection.execute(DDL(copied))
    for name in (*old_columns, *DROPPED, version_table):
        connection.execute(DDL(f"DROP TABLE IF EXISTS {name}"))
    create(INITIAL)
    for name, columns in old_columns.items():
        _copy(connection, name, columns)
        connection.execute(DDL(f"DROP TABLE old_{name}"))
    for (name, column), statement in COMPUTED.items():
        if column not in old_columns[name]:
            connection.execute(sa.text(statement))
    if flow_runs:
        insert = (
            "insert into flow_runs (run_id, flow_run_id, position) values (:run_id, :flow_run_id, :position)"
        )
        connection.execute(sa.text(insert), flow_runs)


def _has_table(connection: sa.Connection, name: str) -> bool:
    return sa.inspect(connection).has_table(name)


def _columns(connection: sa.Connection, table: str) -> list[str]:
    return [column["name"] for column in sa.inspect(connection).get_columns(table)]


def _copy(connection: sa.Connection, old: str, old_columns: Sequence[str]) -> None:
    new, renamed = KEPT[old]
    new_columns = _columns(connection, new)
    pairs = {name: renamed.get(name, name) for name in old_columns}
    kept = {name: new_name for name, new_name in pairs.items() if new_name in new_columns}
    targets, sources = ", ".join(kept.values()), ", ".join(kept)
    copied = f"INSERT INTO {new} ({targets}) SELECT {sources} FROM old_{old}"  # noqa: S608
    connection.execute(DDL(copied))


def _flow_runs(connection: sa.Connection) -> list[dict[str, Any]]:
    """The flow runs of each run in order, from the JSON list that ``runs`` had."""
    found = connection.execute(sa.text("select run_id, flow_run_ids from runs")).all()
    return [
        {"run_id": run.run_id, "flow_run_id": flow_run_id, "position": position}
        for run in found
        for position, flow_run_id in enumerate(_json_list(run.flow_run_ids))
    ]


def _json_list(value: Any) -> list[Any]:
    """A JSON column's list, which SQLite returns as text; empty for null."""
    loaded = json.loads(value) if isinstance(value, str) else value
    return cast("list[Any]", loaded) if isinstance(loaded, list) else []
