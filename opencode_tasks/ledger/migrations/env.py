"""Run the revisions on the connection, and in the transaction, that ``ledger.migrate`` passes."""

from __future__ import annotations

from typing import Final

from alembic import context

attributes: Final = context.config.attributes
context.configure(connection=attributes["connection"], version_table=attributes["version_table"])
with context.begin_transaction():
    context.run_migrations()
