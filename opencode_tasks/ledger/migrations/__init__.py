"""Alembic's folder. ``opencode_tasks.ledger.migrate`` runs the revisions when a ledger is opened.

Modules here import nothing of the package, so that a revision does the same for ever.
"""
