"""The ledger: one SQL database that holds what ran, what it cost, and who may buy what.

All SQL of the project is in here.
"""

from __future__ import annotations

from opencode_tasks.ledger.jobs import RunStatus
from opencode_tasks.ledger.leases import Busy, Lease, LeaseLostError, Taken
from opencode_tasks.ledger.ledger import Ledger
from opencode_tasks.ledger.place import shown_url
from opencode_tasks.ledger.reads import OpenRow, Progress

__all__ = [
    "Busy",
    "Lease",
    "LeaseLostError",
    "Ledger",
    "OpenRow",
    "Progress",
    "RunStatus",
    "Taken",
    "shown_url",
]
