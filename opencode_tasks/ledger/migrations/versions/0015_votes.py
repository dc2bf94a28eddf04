"""Votes: several answers to one row, each in a run of its own, and the answer that most of them give."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the columns of ``runs`` and ``rows``."""
    op.add_column("runs", sa.Column("votes", sa.Integer()))
    op.add_column("runs", sa.Column("parent_run_id", sa.Text()))
    op.add_column("runs", sa.Column("part", sa.Integer()))
    op.create_index("runs_parent", "runs", ["parent_run_id", "part"])
    op.add_column("rows", sa.Column("agreement", sa.Float()))
    op.add_column("rows", sa.Column("votes", sa.Text()))
    op.add_column("rows", sa.Column("needs_review", sa.Boolean()))
    op.add_column("rows", sa.Column("escalated", sa.Boolean()))
