"""The schema of the ledger through time, one Alembic revision a module."""
