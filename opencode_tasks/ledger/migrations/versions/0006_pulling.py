"""Indexes by which rows are pulled, and attempts without an end are found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the indexes."""
    op.create_index("rows_run_status_position", "rows", ["run_id", "status", "position"])
    unended = sa.text("ended_at IS NULL")
    op.create_index("attempts_unended", "attempts", ["host"], postgresql_where=unended, sqlite_where=unended)
