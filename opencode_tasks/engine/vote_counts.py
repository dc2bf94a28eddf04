"""Agreement of the votes of a run, and the number of votes that were not needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.engine.quality import accuracy_with, schema_of_run
from opencode_tasks.engine.vote_outcomes import VotedRow
from opencode_tasks.ledger import Ledger
from opencode_tasks.ledger.votes import VoteCounts
from opencode_tasks.plan.gold import GoldField
from opencode_tasks.quality.votes import alpha, voted_fields

# Rows from which Krippendorff's alpha, and the agreement of each model, are computed.
MAX_COUNTED_ROWS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """Rows that went to a stronger model.

    Attributes:
        model: The model, with its variant.
        rows: Number of rows that it was asked.
        answered: Number of rows that have its answer.
        cost_usd: Cost of these rows in this run in USD, without the earlier answers.
        accuracy_before: Share of correct answers in each field with gold values without the stronger model,
            of the same rows as the accuracy of the run, so that one without an answer then is not correct;
            empty without gold values.

    Examples:
        >>> from opencode_tasks import Escalation
        >>> Escalation(model="anthropic/claude-opus-4-5", rows=12, answered=11, cost_usd=0.2).rows
        12
    """

    model: str
    rows: int
    answered: int
    cost_usd: float
    accuracy_before: Mapping[str, float | None] = field(default_factory=dict[str, float | None])


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteQuality:
    """Votes of a run and their agreement.

    Attributes:
        votes: Number of votes that a row may have, or of the models that answer it.
        rows: Number of rows with votes.
        asked: Number of votes of all rows, those with the answer of an earlier run included.
        reused: Number of votes with the answer of an earlier run.
        saved: Number of votes that were not needed, because the majority was decided.
        ties: Number of rows of which two answers have as many votes.
        agreement: Mean share of the votes that equal the answer of their row, from 0 to 1; None without one.
        alpha: Krippendorff's alpha of each field that is voted on, over the first 100,000 rows, or fewer if
            there are many different answers. None if all answers are equal, if more than 50 are different,
            or without the extra ``quality``.
        escalation: Rows that went to a stronger model; None without ``escalate_to``.

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
    escalation: Escalation | None = None


def read_vote_quality(ledger: Ledger, run_id: str, gold: Sequence[GoldField]) -> VoteQuality | None:
    """The votes of a run so far, and what a stronger model changed; None for a run without either."""
    run = ledger.runs.get(run_id)
    if run is None or run["votes"] is None:
        return None
    counts = ledger.votes.counts(run_id)
    model = run["parameters"].get("escalate_to")
    answers = [json.loads(text) for text in ledger.votes.decided(run_id, MAX_COUNTED_ROWS)]
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
        escalation=None if model is None else _escalation(ledger, run_id, model, counts, gold),
    )


def _escalation(
    ledger: Ledger, run_id: str, model: str, counts: VoteCounts, gold: Sequence[GoldField]
) -> Escalation:
    run = ledger.runs.get(run_id)
    assert run is not None
    votes, schema = run["votes"], schema_of_run(ledger, run_id)
    of_part = [one.run_id for one in ledger.votes.parts(run_id) if one.part > votes]
    before: dict[str, tuple[str | None, Any]] = {}
    for row_id, found in ledger.votes.before(run_id, votes + 1).items():
        row = VotedRow.of(found, schema)
        chosen = row.tally(votes, votes).chosen
        vote = None if chosen is None else row.votes[chosen]
        before[row_id] = (None, None) if vote is None else (vote["response"], vote["structured"])
    return Escalation(
        model=model,
        rows=counts.to_stronger,
        answered=counts.escalated,
        cost_usd=sum(pico_to_usd(ledger.budgets.get(one).spent_pico) or 0.0 for one in of_part),
        accuracy_before=accuracy_with(ledger, run_id, gold, before),
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


def escalation_json(found: Escalation) -> dict[str, Any]:
    """The escalation of a run as ``--json`` has it."""
    return {
        "model": found.model,
        "rows": found.rows,
        "answered": found.answered,
        "cost_usd": found.cost_usd,
        "accuracy_before": dict(found.accuracy_before),
    }
