"""Series of runs over one growing input."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column, and the table of what is answered and purged."""
    op.add_column("runs", sa.Column("series", sa.Text()))
    op.create_index("runs_series", "runs", ["series"])
    op.create_table(
        "answered",
        sa.Column("series", sa.Text(), primary_key=True),
        sa.Column("digest", sa.Text(), primary_key=True),
    )
