"""What the votes of a run show: how often they agree, and how many were not needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opencode_tasks.engine.quality import schema_of_run
from opencode_tasks.ledger import Ledger
from opencode_tasks.quality.votes import alpha, voted_fields

# Rows from which Krippendorff's alpha is computed.
MAX_ALPHA_ROWS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteQuality:
    """Votes of a run and their agreement.

    Attributes:
        votes: Number of votes that a row may have.
        rows: Number of rows with votes.
        asked: Number of votes of all rows, those with the answer of an earlier run included.
        reused: Number of votes with the answer of an earlier run.
        saved: Number of votes that were not needed, because the majority was decided.
        ties: Number of rows of which two answers have as many votes.
        agreement: Mean share of the votes that equal the answer of their row, from 0 to 1; None without one.
        alpha: Krippendorff's alpha of each field that is voted on, over the first 100,000 rows. None if all
            answers are equal, or without the extra ``quality``.

    Examples:
        >>> from opencode_tasks import VoteQuality
        >>> VoteQuality(votes=3, rows=10, asked=22, reused=0, saved=8, ties=0, agreement=0.93).saved
        8
    """

    votes: int
    rows: int
    asked: int
    reused: int
    saved: int
    ties: int
    agreement: float | None
    alpha: Mapping[str, float | None] = field(default_factory=dict[str, float | None])


def read_vote_quality(ledger: Ledger, run_id: str) -> VoteQuality | None:
    """The votes of a run so far; None for a run without votes."""
    run = ledger.runs.get(run_id)
    if run is None or run["votes"] is None:
        return None
    counts = ledger.votes.counts(run_id)
    answers = [json.loads(text) for text in ledger.votes.decided(run_id, MAX_ALPHA_ROWS)]
    fields = voted_fields(schema_of_run(ledger, run_id))
    return VoteQuality(
        votes=run["votes"],
        rows=counts.rows,
        asked=counts.asked,
        reused=counts.reused,
        saved=run["votes"] * counts.rows - counts.asked,
        ties=counts.ties,
        agreement=counts.agreement,
        alpha={one.title: alpha(answers, one) for one in fields},
    )


def votes_json(votes: VoteQuality) -> dict[str, Any]:
    """The votes of a run as ``--json`` has them."""
    return {
        "votes": votes.votes,
        "rows": votes.rows,
        "asked": votes.asked,
        "reused": votes.reused,
        "saved": votes.saved,
        "ties": votes.ties,
        "agreement": votes.agreement,
        "alpha": dict(votes.alpha),
    }
