"""The ledger: one SQL database that holds runs, rows, attempts, costs, leases, gates and budgets.

All SQL of this package is here, except that ``frames`` reads and writes the user's own tables.
"""

from __future__ import annotations

from opencode_tasks.ledger.attempts import CRASHED, INTERRUPTED, BatchRows, OrphanedAttempt
from opencode_tasks.ledger.audit_queries import AttemptPair, AuditFacts, SentAttempt
from opencode_tasks.ledger.budgets import BUDGET_REACHED, Budget, budget_message
from opencode_tasks.ledger.canaries import MeasuredRun, Measurement
from opencode_tasks.ledger.claim import ClaimedRow, ClaimRequest, ClaimResult, OpenRow
from opencode_tasks.ledger.concurrency import Allocation, ConcurrencyRequest, ConcurrencyState
from opencode_tasks.ledger.continued_sessions import EarlierAttempt
from opencode_tasks.ledger.finish import EndedAttempt
from opencode_tasks.ledger.gate_admission import Gate
from opencode_tasks.ledger.gate_list import ListedGate
from opencode_tasks.ledger.gates import GateObservation
from opencode_tasks.ledger.gold import GoldAnswer, GoldValue
from opencode_tasks.ledger.incremental_series import CompletedRows
from opencode_tasks.ledger.leased_rows import AlreadyFinished, AlreadyLeased
from opencode_tasks.ledger.leases import Lease, LeaseLostError
from opencode_tasks.ledger.ledger import Ledger
from opencode_tasks.ledger.part_answers import PartNames
from opencode_tasks.ledger.progress import Progress
from opencode_tasks.ledger.report_queries import ReportQueries
from opencode_tasks.ledger.result_tables import ATTEMPT_COLUMNS, COST_COLUMNS, USAGE_COLUMNS
from opencode_tasks.ledger.retention import Purged
from opencode_tasks.ledger.review_outcomes import HAS_REVIEWED_EXAMPLES, ModelAnswer, RecordedReview
from opencode_tasks.ledger.reviewed_prompts import ReviewedPrompt
from opencode_tasks.ledger.reviews import GoldOf, Review
from opencode_tasks.ledger.row_list import SORT_COLUMNS, RowFilter, RowOrder
from opencode_tasks.ledger.row_outcomes import RowChange, completed, failed, waiting
from opencode_tasks.ledger.runs import (
    FLOW_CALL,
    MODELS,
    PREPARING,
    SYSTEM_TEXT,
    UNFINISHED,
    PilotRows,
    WaitingRun,
    models_in,
    resumable_command,
    system_text_in,
)
from opencode_tasks.ledger.spend import GROUPINGS, Grouping
from opencode_tasks.ledger.url import is_there, ledger_argument, shown_url
from opencode_tasks.ledger.votes import DecidedRow

__all__ = [
    "ATTEMPT_COLUMNS",
    "BUDGET_REACHED",
    "COST_COLUMNS",
    "CRASHED",
    "FLOW_CALL",
    "GROUPINGS",
    "HAS_REVIEWED_EXAMPLES",
    "INTERRUPTED",
    "MODELS",
    "PREPARING",
    "SORT_COLUMNS",
    "SYSTEM_TEXT",
    "UNFINISHED",
    "USAGE_COLUMNS",
    "Allocation",
    "AlreadyFinished",
    "AlreadyLeased",
    "AttemptPair",
    "AuditFacts",
    "BatchRows",
    "Budget",
    "ClaimRequest",
    "ClaimResult",
    "ClaimedRow",
    "CompletedRows",
    "ConcurrencyRequest",
    "ConcurrencyState",
    "DecidedRow",
    "EarlierAttempt",
    "EndedAttempt",
    "Gate",
    "GateObservation",
    "GoldAnswer",
    "GoldOf",
    "GoldValue",
    "Grouping",
    "Lease",
    "LeaseLostError",
    "Ledger",
    "ListedGate",
    "MeasuredRun",
    "Measurement",
    "ModelAnswer",
    "OpenRow",
    "OrphanedAttempt",
    "PartNames",
    "PilotRows",
    "Progress",
    "Purged",
    "RecordedReview",
    "ReportQueries",
    "Review",
    "ReviewedPrompt",
    "RowChange",
    "RowFilter",
    "RowOrder",
    "SentAttempt",
    "WaitingRun",
    "budget_message",
    "completed",
    "failed",
    "is_there",
    "ledger_argument",
    "models_in",
    "resumable_command",
    "shown_url",
    "system_text_in",
    "waiting",
]
