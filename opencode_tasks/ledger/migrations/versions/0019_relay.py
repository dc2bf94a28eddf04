"""Requests that left the sandbox of an attempt."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Add the columns of ``attempts``."""
    for name in ("requests", "answered", "refused", "bytes_sent", "bytes_received"):
        op.add_column("attempts", sa.Column(f"relay_{name}", sa.BigInteger()))
