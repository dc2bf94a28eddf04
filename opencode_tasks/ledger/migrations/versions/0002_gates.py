"""Gates, what a run waits for, and the flow runs of a run."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _time(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, *, nullable: bool = True, primary_key: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=nullable and not primary_key, primary_key=primary_key)


def upgrade() -> None:
    """Add the tables and columns."""
    op.add_column("runs", _time("waits_until"))
    op.add_column("runs", _text("pause_reason"))
    op.add_column("attempts", _text("gate_id"))
    op.create_table("flow_runs", _text("flow_run_id", primary_key=True), _text("run_id", primary_key=True))
    op.create_table(
        "gates",
        _text("gate_id", primary_key=True),
        _text("model_ref", nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        _text("error_type"),
        _text("error_message"),
        _time("reset_time"),
        _time("changed_at", nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("closures", sa.Integer(), nullable=False),
        _text("probe_owner"),
        _time("probe_until"),
        _text("suspect_run_id"),
        _text("suspect_row_id"),
        _time("suspect_since"),
    )
