"""Outages: attempts that met one, and the failures of a gate since its last answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns of ``attempts`` and ``gates``."""
    op.add_column("attempts", sa.Column("is_outage", sa.Boolean()))
    op.add_column("gates", sa.Column("failing_since", sa.DateTime(timezone=True)))
    op.add_column("gates", sa.Column("failing_run_id", sa.Text()))
    op.add_column("gates", sa.Column("failing_row_id", sa.Text()))
