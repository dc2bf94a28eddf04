"""The ledger: one SQL database that holds what ran, what it cost, and who may buy what.

All SQL of ours is in here; tables of the user's are read and written in ``frames``.
"""

from __future__ import annotations

from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.ledger import schema
from opencode_tasks.ledger.attempts import CRASHED
from opencode_tasks.ledger.budgets import BUDGET_REACHED, Budget, BudgetReachedError
from opencode_tasks.ledger.bulk_commit import Finish
from opencode_tasks.ledger.commit import answered
from opencode_tasks.ledger.concurrency import Allocation, ConcurrencyRequest, ConcurrencyState
from opencode_tasks.ledger.gates import Gate, GateHold, GateObservation
from opencode_tasks.ledger.incremental import AnsweredRows
from opencode_tasks.ledger.leases import Busy, Lease, LeaseLostError, Taken
from opencode_tasks.ledger.ledger import Ledger
from opencode_tasks.ledger.purge import Purged
from opencode_tasks.ledger.queries import INTERRUPTED, OpenRow, OrphanedAttempt, Progress
from opencode_tasks.ledger.queue import ClaimedRow, ClaimRequest, ClaimResult, QueueState
from opencode_tasks.ledger.report_queries import ReportQueries
from opencode_tasks.ledger.runs import UNFINISHED, RunStatus, SleepingRun
from opencode_tasks.ledger.spend import GROUPINGS, Grouping
from opencode_tasks.ledger.url import is_there, shown_url

# What ``Ledger.attempts``, ``.usage`` and ``.cost`` give for each line, also where there is none.
ATTEMPT_COLUMNS = tuple(schema.attempts.c.keys())
USAGE_COLUMNS = tuple(schema.usage.c.keys())
COST_COLUMNS = ("model_ref", "rows", "steps", *TOKEN_COLUMNS, "cost_pico", "cost_source", "failed_cost_pico")

__all__ = [
    "ATTEMPT_COLUMNS",
    "BUDGET_REACHED",
    "COST_COLUMNS",
    "CRASHED",
    "GROUPINGS",
    "INTERRUPTED",
    "UNFINISHED",
    "USAGE_COLUMNS",
    "Allocation",
    "AnsweredRows",
    "Budget",
    "BudgetReachedError",
    "Busy",
    "ClaimRequest",
    "ClaimResult",
    "ClaimedRow",
    "ConcurrencyRequest",
    "ConcurrencyState",
    "Finish",
    "Gate",
    "GateHold",
    "GateObservation",
    "Grouping",
    "Lease",
    "LeaseLostError",
    "Ledger",
    "OpenRow",
    "OrphanedAttempt",
    "Progress",
    "Purged",
    "QueueState",
    "ReportQueries",
    "RunStatus",
    "SleepingRun",
    "Taken",
    "answered",
    "is_there",
    "shown_url",
]
