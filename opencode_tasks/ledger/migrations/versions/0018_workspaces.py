"""Workspaces of rows: the source of the files, and what the agent changed in them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Add the columns of ``rows``."""
    op.add_column("rows", sa.Column("workspace", sa.JSON()))
    for name in (
        *("diff", "diff_url", "tools_called", "tools_denied"),
        *("workspace_url", "check_output", "artifacts"),
    ):
        op.add_column("rows", sa.Column(name, sa.Text()))
    for name in ("files_changed", "lines_added", "lines_removed"):
        op.add_column("rows", sa.Column(name, sa.BigInteger()))
    op.add_column("rows", sa.Column("check_passed", sa.Boolean()))
