"""How many rows may be in flight at a gate, and who has how many of them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def _time(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _count(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=False)


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "paces",
        sa.Column("gate_id", sa.Text(), primary_key=True),
        sa.Column("limit", sa.Float(), nullable=False),
        _time("used_at", nullable=False),
        _time("grown_at", nullable=False),
        sa.Column("ceiling", sa.Integer()),
        _count("step"),
        sa.Column("gap_s", sa.Float(), nullable=False),
        _time("try_at"),
        _time("tried_at"),
        _count("answered"),
        _time("cut_at"),
        _count("cut_from"),
        _count("cut_floor"),
        _count("refused"),
        sa.Column("row_s", sa.Float(), nullable=False),
        sa.Column("requests", sa.Float()),
        sa.Column("tokens", sa.Float()),
        _time("filled_at"),
    )
    op.create_table(
        "pace_shares",
        sa.Column("gate_id", sa.Text(), primary_key=True),
        sa.Column("owner", sa.Text(), primary_key=True),
        _count("share"),
        _count("in_flight"),
        _count("wants"),
        _time("until", nullable=False),
    )
