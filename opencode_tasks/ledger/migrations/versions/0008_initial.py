"""The first released schema. The revisions 0001 to 0007 existed before the first release only."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = None

TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


def _text(
    name: str, *, nullable: bool = True, key: bool = False, default: str | None = None
) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=nullable and not key, primary_key=key, server_default=default)


def _time(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _integer(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=nullable)


def _bigint(name: str, *, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=default is None, server_default=default)


def _float(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Float())


def _json(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON())


def _boolean(name: str, *, default: Any = None) -> sa.Column[Any]:
    return sa.Column(name, sa.Boolean(), nullable=False, server_default=default)


def upgrade() -> None:
    """Create all tables."""
    op.create_table("ledger_info", _text("name", key=True), _text("value", nullable=False))
    _create_runs()
    _create_rows()
    _create_attempts()
    _create_usage()
    _create_leases()
    _create_gates()


def _create_runs() -> None:
    op.create_table(
        "runs",
        _text("run_id", key=True),
        _time("created_at", nullable=False),
        _time("ended_at"),
        _text("status", nullable=False),
        _json("parameters"),
        _text("model_ref"),
        _text("backend"),
        _text("opencode_version"),
        _text("deployment"),
        _text("input_fingerprint"),
        _integer("row_count"),
        _boolean("refresh"),
        _time("waits_until"),
        _text("pause_reason"),
        _bigint("max_cost_pico"),
        _bigint("spent_pico", default="0"),
        _bigint("reserved_pico", default="0"),
        _bigint("refused_pico"),
        _text("origin", nullable=False, default="annotate"),
        _time("purged_at"),
        _text("series"),
    )
    op.create_index("runs_created_at", "runs", ["created_at"])
    op.create_index("runs_series", "runs", ["series"])
    op.create_table(
        "flow_runs",
        _text("flow_run_id", key=True),
        _text("run_id", key=True),
        _integer("position", nullable=False),
    )
    op.create_index("flow_runs_run", "flow_runs", ["run_id", "position"])
    op.create_table("purged_rows", _text("series", key=True), _text("digest", key=True))


def _create_rows() -> None:
    op.create_table(
        "rows",
        _text("run_id", key=True),
        _text("row_id", key=True),
        _integer("position", nullable=False),
        _text("row_key", nullable=False),
        _text("prompt"),
        _json("labels"),
        _text("response"),
        _json("structured"),
        _text("status", nullable=False, default="open"),
        _text("error_type"),
        _text("error_message"),
        _time("waits_until"),
        _text("finish_reason"),
        _text("session_id"),
        _bigint("attempts", default="0"),
        _bigint("turns"),
        _text("model_ref"),
        *(_bigint(name) for name in TOKENS),
        _bigint("cost_pico"),
        _text("cost_source"),
        _boolean("reused", default=sa.false()),
        _float("duration_s"),
        _text("source_run_id"),
        _text("source_row_id"),
        _time("started_at"),
        _time("completed_at"),
    )
    op.create_index("rows_run_position", "rows", ["run_id", "position"])
    op.create_index("rows_run_status_position", "rows", ["run_id", "status", "position"])
    op.create_index("rows_key_status", "rows", ["row_key", "status", "run_id"])


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        _text("attempt_id", key=True),
        _text("run_id", nullable=False),
        _text("row_id", nullable=False),
        _text("row_key", nullable=False),
        _integer("attempt", nullable=False),
        _integer("fence", nullable=False),
        _text("owner", nullable=False),
        _time("started_at", nullable=False),
        _time("ended_at"),
        _text("status", nullable=False),
        _text("error_type"),
        _text("error_message"),
        _integer("exit_code"),
        _time("reset_time"),
        _float("retry_after_s"),
        _text("session_id"),
        _text("node_id"),
        _text("host"),
        _text("backend"),
        _text("data_dir"),
        _boolean("usage_known"),
        _text("gate_id"),
        _bigint("reserved_pico", default="0"),
        _bigint("spent_pico", default="0"),
        _bigint("max_call_pico", default="0"),
    )
    op.create_index("attempts_run_row", "attempts", ["run_id", "row_id"])
    op.create_index("attempts_key_ended", "attempts", ["row_key", "ended_at"])
    has_no_end = sa.text("ended_at IS NULL")
    op.create_index(
        "attempts_unended", "attempts", ["host"], postgresql_where=has_no_end, sqlite_where=has_no_end
    )


def _create_usage() -> None:
    op.create_table(
        "inner_retries",
        _text("session_id", key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        _text("attempt_id", key=True),
        _text("message"),
        _time("next_at"),
    )
    op.create_index("inner_retries_attempt", "inner_retries", ["attempt_id"])
    op.create_table(
        "sessions",
        _text("session_id", key=True),
        _text("parent_id"),
        _text("attempt_id", nullable=False),
        _text("run_id", nullable=False),
        _text("row_id", nullable=False),
        sa.Column("messages", sa.LargeBinary()),
        _integer("turns"),
    )
    op.create_index("sessions_run_row", "sessions", ["run_id", "row_id"])
    op.create_index("sessions_attempt", "sessions", ["attempt_id"])
    op.create_table(
        "usage",
        _text("session_id", key=True),
        _text("step_id", key=True),
        _text("attempt_id", nullable=False),
        _text("run_id", nullable=False),
        _text("row_id", nullable=False),
        _text("row_key", nullable=False),
        _text("message_id"),
        _text("model_ref"),
        _text("agent"),
        *(_bigint(name) for name in TOKENS),
        _bigint("cost_pico"),
        _text("cost_source", nullable=False),
        _bigint("cost_reported_pico"),
        _bigint("cost_computed_pico"),
        _text("price_source"),
        _text("finish_reason"),
        _time("ended_at"),
    )
    op.create_index("usage_run_row", "usage", ["run_id", "row_id"])


def _create_leases() -> None:
    op.create_table(
        "leases",
        _text("row_key", key=True),
        _text("owner"),
        _integer("fence", nullable=False),
        _time("expires_at", nullable=False),
        _time("heartbeat_at", nullable=False),
    )
    op.create_index("leases_owner", "leases", ["owner"])


def _create_gates() -> None:
    op.create_table(
        "gates",
        _text("gate_id", key=True),
        _text("model_ref", nullable=False),
        _boolean("is_open"),
        _text("error_type"),
        _text("error_message"),
        _time("reset_time"),
        _time("changed_at", nullable=False),
        _integer("failures", nullable=False),
        _integer("closures", nullable=False),
        _text("probe_owner"),
        _time("probe_until"),
        _text("suspect_run_id"),
        _text("suspect_row_id"),
        _time("suspect_since"),
    )
    op.create_table(
        "concurrency_limits",
        _text("gate_id", key=True),
        _json("state"),
        _float("requests"),
        _float("tokens"),
        _time("filled_at"),
    )
    op.create_table(
        "concurrency_shares",
        _text("gate_id", key=True),
        _text("owner", key=True),
        _integer("slots", nullable=False),
        _integer("in_flight", nullable=False),
        _integer("wants", nullable=False),
        _time("expires_at", nullable=False),
    )
