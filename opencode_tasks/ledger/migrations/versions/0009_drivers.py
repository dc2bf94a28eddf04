"""Drivers: the processes that work on a run; and the time at which a person resumed a run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the table ``drivers`` and the column ``resumed_at``."""
    op.add_column("runs", sa.Column("resumed_at", sa.DateTime(timezone=True)))
    op.create_table(
        "drivers",
        sa.Column("driver_id", sa.Text(), primary_key=True, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True)),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
    )
    op.create_index("drivers_run", "drivers", ["run_id"])
