"""Files that are attached to the prompts of rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Add the column of ``rows``."""
    op.add_column("rows", sa.Column("files", sa.JSON()))
