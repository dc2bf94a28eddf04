"""Reviews: answers that persons confirmed or corrected."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the table ``answer_reviews``, and the columns of ``rows`` and ``gold_values``."""
    op.create_table(
        "answer_reviews",
        sa.Column("run_id", sa.Text(), primary_key=True, nullable=False),
        sa.Column("row_id", sa.Text(), primary_key=True, nullable=False),
        sa.Column("reviewed_at", sa.DateTime(timezone=True), primary_key=True, nullable=False),
        sa.Column("row_key", sa.Text(), nullable=False),
        sa.Column("answer", sa.JSON()),
        sa.Column("response", sa.Text()),
        sa.Column("answered_by", sa.Text(), nullable=False),
        sa.Column("note", sa.Text()),
        sa.Column("is_random", sa.Boolean()),
        sa.Column("previous_status", sa.Text(), nullable=False),
        sa.Column("previous_response", sa.Text()),
        sa.Column("previous_structured", sa.JSON()),
        sa.Column("previous_error_type", sa.Text()),
        sa.Column("previous_error_message", sa.Text()),
        sa.Column("previous_answered_by", sa.Text()),
        sa.Column("previous_reviewed_at", sa.DateTime(timezone=True)),
    )
    op.add_column("rows", sa.Column("answered_by", sa.Text()))
    op.add_column("rows", sa.Column("reviewed_at", sa.DateTime(timezone=True)))
    op.add_column("gold_values", sa.Column("reviewed_at", sa.DateTime(timezone=True)))
