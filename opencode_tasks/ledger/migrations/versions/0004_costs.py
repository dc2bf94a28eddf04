"""Costs by whose account, where runs are from, and the views."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from opencode_tasks.ledger.views import create_views

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns and make the views; what was reported before is told as reported."""
    for name in ("cost_reported_pico", "cost_computed_pico"):
        op.add_column("usage", sa.Column(name, sa.BigInteger()))
    op.add_column("usage", sa.Column("price_source", sa.Text()))
    op.execute("update usage set cost_reported_pico = cost_pico where cost_source = 'reported'")
    op.create_index("sessions_attempt", "sessions", ["attempt_id"])
    most = sa.Column("call_most_pico", sa.BigInteger(), nullable=False, server_default="0")
    op.add_column("attempts", most)
    op.add_column("runs", sa.Column("origin", sa.Text(), nullable=False, server_default="annotate"))
    op.add_column("runs", sa.Column("purged_at", sa.DateTime(timezone=True)))
    create_views(op.get_bind())
