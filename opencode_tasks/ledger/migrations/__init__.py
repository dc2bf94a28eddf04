"""Alembic's folder: ``opencode_tasks.ledger.upgrade`` runs it, nobody needs a terminal for it."""
