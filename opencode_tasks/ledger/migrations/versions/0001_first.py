"""The first schema: runs, rows, attempts, inner_retries, sessions, usage, leases."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _time(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, *, nullable: bool = True, primary_key: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=nullable and not primary_key, primary_key=primary_key)


def _tokens() -> list[sa.Column[Any]]:
    kinds = ("input", "cache_read", "cache_write", "output", "reasoning")
    return [sa.Column(f"{kind}_tokens", sa.BigInteger()) for kind in kinds]


def upgrade() -> None:
    """Create all tables."""
    _runs()
    _rows()
    _attempts()
    _sessions()
    _usage()
    op.create_table(
        "leases",
        _text("row_key", primary_key=True),
        _text("owner"),
        sa.Column("fence", sa.Integer(), nullable=False),
        _time("until", nullable=False),
        _time("heartbeat", nullable=False),
    )
    op.create_index("leases_owner", "leases", ["owner"])


def _runs() -> None:
    op.create_table(
        "runs",
        _text("run_id", primary_key=True),
        _time("created_at", nullable=False),
        _time("ended_at"),
        _text("status", nullable=False),
        sa.Column("parameters", sa.JSON()),
        _text("model_ref"),
        _text("backend"),
        _text("opencode_version"),
        _text("deployment"),
        sa.Column("flow_run_ids", sa.JSON()),
        _text("input_fingerprint"),
        sa.Column("row_count", sa.Integer()),
        sa.Column("refresh", sa.Boolean(), nullable=False),
    )
    op.create_index("runs_created_at", "runs", ["created_at"])


def _rows() -> None:
    op.create_table(
        "rows",
        _text("run_id", primary_key=True),
        _text("row_id", primary_key=True),
        sa.Column("position", sa.Integer(), nullable=False),
        _text("row_key", nullable=False),
        _text("prompt"),
        sa.Column("labels", sa.JSON()),
        sa.Column("status", sa.Text(), nullable=False, server_default="open"),
        _text("response"),
        sa.Column("structured", sa.JSON()),
        _text("error_type"),
        _text("error_message"),
        _time("waits_until"),
        _text("finish_reason"),
        _text("session_id"),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("turns", sa.Integer()),
        _text("model_ref"),
        *_tokens(),
        sa.Column("cost_pico", sa.BigInteger()),
        _text("cost_source"),
        sa.Column("reused", sa.Boolean(), nullable=False),
        _text("source_run_id"),
        _text("source_row_id"),
        _time("started_at"),
        _time("completed_at"),
        sa.Column("duration_s", sa.Float()),
    )
    op.create_index("rows_run_position", "rows", ["run_id", "position"])
    op.create_index("rows_key_status", "rows", ["row_key", "status"])


def _attempts() -> None:
    op.create_table(
        "attempts",
        _text("attempt_id", primary_key=True),
        _text("run_id", nullable=False),
        _text("row_id", nullable=False),
        _text("row_key", nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        _text("owner", nullable=False),
        _time("started_at", nullable=False),
        _time("ended_at"),
        _text("status", nullable=False),
        _text("error_type"),
        _text("error_message"),
        sa.Column("exit_code", sa.Integer()),
        _time("reset_time"),
        sa.Column("retry_after_s", sa.Float()),
        _text("session_id"),
        _text("node_id"),
        _text("host"),
        _text("backend"),
        _text("data_dir"),
        sa.Column("usage_known", sa.Boolean(), nullable=False),
    )
    op.create_index("attempts_run_row", "attempts", ["run_id", "row_id"])


def _sessions() -> None:
    op.create_table(
        "inner_retries",
        _text("session_id", primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        _text("attempt_id", primary_key=True),
        _text("message"),
        _time("next_at"),
    )
    op.create_index("inner_retries_attempt", "inner_retries", ["attempt_id"])
    op.create_table(
        "sessions",
        _text("session_id", primary_key=True),
        _text("parent_id"),
        _text("attempt_id", nullable=False),
        _text("run_id", nullable=False),
        _text("row_id", nullable=False),
        sa.Column("messages", sa.LargeBinary()),
        sa.Column("turns", sa.Integer()),
    )
    op.create_index("sessions_run_row", "sessions", ["run_id", "row_id"])


def _usage() -> None:
    op.create_table(
        "usage",
        _text("session_id", primary_key=True),
        _text("step_id", primary_key=True),
        _text("attempt_id", nullable=False),
        _text("run_id", nullable=False),
        _text("row_id", nullable=False),
        _text("row_key", nullable=False),
        _text("message_id"),
        _text("model_ref"),
        _text("agent"),
        *_tokens(),
        sa.Column("cost_pico", sa.BigInteger()),
        _text("cost_source", nullable=False),
        _text("finish_reason"),
        _time("ended_at"),
    )
    op.create_index("usage_run_row", "usage", ["run_id", "row_id"])
