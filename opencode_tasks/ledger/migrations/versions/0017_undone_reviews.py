"""The time at which a review was undone: an older review of the row counts again then."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add the column ``undone_at``.

    Until now, an undo removed all reviews of a row. So reviews that do not count are undone: at the time of
    the review that replaced them, or at once.
    """
    op.add_column("answer_reviews", sa.Column("undone_at", sa.DateTime(timezone=True)))
    op.execute(
        "update answer_reviews set undone_at = coalesce((select rows.reviewed_at from rows"
        " where rows.run_id = answer_reviews.run_id and rows.row_id = answer_reviews.row_id),"
        " answer_reviews.reviewed_at)"
        " where not exists (select 1 from rows where rows.run_id = answer_reviews.run_id"
        " and rows.row_id = answer_reviews.row_id and rows.reviewed_at = answer_reviews.reviewed_at)"
    )
