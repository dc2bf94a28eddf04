"""Alembic's folder: ``opencode_tasks.ledger.migrate`` runs it, nobody needs a terminal for it."""
