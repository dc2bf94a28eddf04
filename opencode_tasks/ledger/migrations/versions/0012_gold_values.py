"""Known correct values of answers, and whether the answers equal them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the table ``gold_values``."""
    op.create_table(
        "gold_values",
        sa.Column("run_id", sa.Text(), primary_key=True, nullable=False),
        sa.Column("row_id", sa.Text(), primary_key=True, nullable=False),
        sa.Column("field", sa.Text(), primary_key=True, nullable=False),
        sa.Column("value", sa.JSON()),
        sa.Column("is_correct", sa.Boolean()),
    )
