"""The ledger: one SQL database that holds what ran, what it cost, and who may buy what.

All SQL of ours is in here; tables of the user's are read and written in ``frames``.
"""

from __future__ import annotations

from opencode_tasks.ledger.accounts import Accounts
from opencode_tasks.ledger.budgets import BUDGET_REACHED, Budget, BudgetReachedError
from opencode_tasks.ledger.commits import answered
from opencode_tasks.ledger.finishing import Finish
from opencode_tasks.ledger.gates import Gate, Held, Report
from opencode_tasks.ledger.jobs import UNFINISHED, RunStatus, SleepingRun
from opencode_tasks.ledger.leases import Busy, Lease, LeaseLostError, Taken
from opencode_tasks.ledger.ledger import Ledger
from opencode_tasks.ledger.paces import PaceNow, Share, Visit
from opencode_tasks.ledger.place import is_there, shown_url
from opencode_tasks.ledger.pulling import Begun, Outlook, Pull, Pulled
from opencode_tasks.ledger.purging import Purged
from opencode_tasks.ledger.reads import INTERRUPTED, LeftAttempt, OpenRow, Progress
from opencode_tasks.ledger.series import Answered
from opencode_tasks.ledger.spending import GROUPINGS, Grouping
from opencode_tasks.ledger.tables import attempts, usage
from opencode_tasks.ledger.trials import CRASHED
from opencode_tasks.records import TOKEN_COLUMNS

# What ``Ledger.attempts``, ``.usage`` and ``.cost`` give for each line, also where there is none.
ATTEMPT_COLUMNS = tuple(attempts.c.keys())
USAGE_COLUMNS = tuple(usage.c.keys())
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
    "Accounts",
    "Answered",
    "Begun",
    "Budget",
    "BudgetReachedError",
    "Busy",
    "Finish",
    "Gate",
    "Grouping",
    "Held",
    "Lease",
    "LeaseLostError",
    "Ledger",
    "LeftAttempt",
    "OpenRow",
    "Outlook",
    "PaceNow",
    "Progress",
    "Pull",
    "Pulled",
    "Purged",
    "Report",
    "RunStatus",
    "Share",
    "SleepingRun",
    "Taken",
    "Visit",
    "answered",
    "is_there",
    "shown_url",
]
