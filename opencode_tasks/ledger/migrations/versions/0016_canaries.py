"""Canaries: rows that each run of a series sends anew, and what they showed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Add the table ``canaries``."""
    op.create_table(
        "canaries",
        sa.Column("run_id", sa.Text(), primary_key=True, nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_rows", sa.Integer(), nullable=False),
        sa.Column("compared_rows", sa.Integer(), nullable=False),
        sa.Column("has_drift", sa.Boolean(), nullable=False),
        sa.Column("report", sa.JSON()),
    )
    op.create_index("canaries_series", "canaries", ["series", "measured_at"])
