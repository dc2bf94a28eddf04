"""System text of a row that differs from that of its run."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column; it is null in rows of older runs."""
    op.add_column("rows", sa.Column("system", sa.Text()))
