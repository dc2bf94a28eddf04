"""Indexes by which rows are pulled, rows of a key and attempts without an end are found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the indexes."""
    op.create_index("rows_run_status_position", "rows", ["run_id", "status", "position"])
    op.drop_index("rows_key_status", "rows")
    op.create_index("rows_key_status", "rows", ["row_key", "status", "run_id"])
    unended = sa.text("ended_at IS NULL")
    op.create_index("attempts_unended", "attempts", ["host"], postgresql_where=unended, sqlite_where=unended)
