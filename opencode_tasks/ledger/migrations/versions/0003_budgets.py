"""Budgets: what a run may cost, has spent and has set aside; attempts without an end by their key."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

SPENT = "coalesce((select sum(usage.cost_pico) from usage where usage.run_id = {table}.run_id{more}), 0)"
OF_THE_ATTEMPT = " and usage.row_id = attempts.row_id and usage.attempt_id = attempts.attempt_id"


def _counter(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")


def upgrade() -> None:
    """Add the columns and the index; what earlier runs bought is counted as settled."""
    op.create_index("attempts_key_ended", "attempts", ["row_key", "ended_at"])
    op.add_column("runs", sa.Column("max_cost_pico", sa.BigInteger()))
    op.add_column("runs", sa.Column("refused_pico", sa.BigInteger()))
    for table, settled in (("runs", "spent_pico"), ("attempts", "settled_pico")):
        op.add_column(table, _counter("reserved_pico"))
        op.add_column(table, _counter(settled))
        more = OF_THE_ATTEMPT if table == "attempts" else ""
        op.execute(f"update {table} set {settled} = " + SPENT.format(table=table, more=more))  # noqa: S608
