"""Run the migrations on the connection, and inside the transaction, that ``upgrade`` hands over."""

from __future__ import annotations

from alembic import context

from opencode_tasks.ledger.schema import metadata

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=metadata,
    version_table=attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
