"""The order of the attempts at one prompt, whatever the clocks of their machines show."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the column of ``attempts``."""
    op.add_column("attempts", sa.Column("ended_fence", sa.Integer()))
