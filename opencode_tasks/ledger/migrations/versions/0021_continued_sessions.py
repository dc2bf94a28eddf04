"""Attempts that continue the session of an earlier one, and why others begin anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Add the columns of ``attempts``."""
    op.add_column("attempts", sa.Column("continues", sa.Integer()))
    op.add_column("attempts", sa.Column("begins_anew", sa.Text()))
