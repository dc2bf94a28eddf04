"""Outcome of a row from its votes, and from the answer of a stronger model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.domain.usage import total_of
from opencode_tasks.engine.quality import has_answer
from opencode_tasks.ledger import DecidedRow
from opencode_tasks.ledger.votes import CHOSEN_COLUMNS
from opencode_tasks.plan.options import EscalationLimits
from opencode_tasks.quality.votes import Tally, VotedField, kept_answer, tally, voted_fields

# The weakest source of a cost first.
_COST_SOURCES = ("unpriced", "computed", "reported")

Vote = Mapping[str, Any]
"""A row of a part: the columns of ``rows``, ``part``, and ``of_position``, the position in the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VotedRow:
    """A row with its votes in their order, and what is voted on."""

    votes: Sequence[Vote]
    fields: Sequence[VotedField]
    has_schema: bool

    @classmethod
    def of(cls, votes: Sequence[Vote], schema: Mapping[str, Any] | None) -> Self:
        """The row with these votes; of several with one number the last one counts."""
        by_number = {vote["part"]: vote for vote in votes}
        return cls(
            votes=[by_number[number] for number in sorted(by_number)],
            fields=voted_fields(schema),
            has_schema=schema is not None,
        )

    @property
    def position(self) -> int:
        """The position of the row in the run."""
        return self.votes[0]["of_position"]

    def up_to(self, number: int) -> Self:
        """The row with its votes up to this number."""
        return replace(self, votes=[vote for vote in self.votes if vote["part"] <= number])

    def has_vote(self, number: int) -> bool:
        """Whether the row has the vote with this number."""
        return any(vote["part"] == number for vote in self.votes)

    def answer_of(self, vote: Vote) -> Any:
        """The answer of a vote: its text, or the value that the schema describes."""
        return vote["structured"] if self.has_schema else vote["response"]

    def tally(self, number: int, votes: int) -> Tally:
        """The count of the votes up to a number, out of ``votes`` in all. The answer of a person decides."""
        counted = self.up_to(number).votes
        found = tally(
            [self.answer_of(vote) for vote in counted],
            [_is_valid(vote) for vote in counted],
            self.fields,
            votes,
        )
        of_person = next((at for at, one in enumerate(counted) if one["answered_by"] is not None), None)
        if of_person is None:
            return found
        return replace(found, chosen=of_person, is_tie=False, is_decided=True)

    def _with_passed_check(self, chosen: Vote) -> Vote:
        """The vote whose work the row takes: of those with the chosen answer, one whose check passed."""
        if chosen["check_passed"] is not False or chosen["answered_by"] is not None:
            return chosen
        answer = self.answer_of(chosen)
        passed = (
            vote
            for vote in self.votes
            if vote["check_passed"] and _is_valid(vote) and self.answer_of(vote) == answer
        )
        return next(passed, chosen)

    def is_low(self, found: Tally, limits: EscalationLimits) -> bool:
        """Whether the agreement or the stated confidence is below its limit, or there is no valid answer.

        A confidence that is no number from 0 to 1 is below every limit.
        """
        if found.chosen is None:
            # A row that was not sent at all would be refused by any model, or was not covered by the budget.
            return any(vote["attempts"] or vote["reused"] for vote in self.votes)
        if found.agreement is None or found.agreement < limits.agreement:
            return True
        if limits.confidence_field is None:
            return False
        stated = mapping_in(self.answer_of(self.votes[found.chosen])).get(limits.confidence_field)
        if not isinstance(stated, int | float) or isinstance(stated, bool):
            return True
        return not limits.confidence <= stated <= 1

    @property
    def has_person(self) -> bool:
        """Whether a vote has the answer of a person, which is final."""
        return any(vote["answered_by"] is not None for vote in self.votes)

    def _lacks_votes(self) -> bool:
        """Whether the budget left out votes that could have changed the answer."""
        return any(vote["status"] == "skipped" for vote in self.votes)

    def outcome(self, found: Tally) -> DecidedRow:
        """The outcome by the count of the votes."""
        valid = [_is_valid(vote) for vote in self.votes]
        shown = [
            kept_answer(self.answer_of(vote), self.fields) if ok else None
            for vote, ok in zip(self.votes, valid, strict=True)
        ]
        return _decided(
            self._with_passed_check(self.votes[found.chosen or 0]),
            self.votes,
            {
                "agreement": found.agreement,
                "votes": json.dumps(shown, ensure_ascii=False),
                "needs_review": not self.has_person and (found.is_tie or self._lacks_votes()),
                "escalated": False,
            },
        )


def escalated_row(row: VotedRow, part: int, votes: int) -> DecidedRow:
    """The outcome of a row after the stronger model answered in this part: its answer, if it is valid."""
    weak = row.up_to(part - 1)
    decided = weak.outcome(weak.tally(part - 1, min(votes, len(weak.votes))))
    strong = next(vote for vote in row.votes if vote["part"] == part)
    kept = {name: decided.values[name] for name in ("agreement", "votes", "needs_review")}
    if not _is_valid(strong):
        had_answer = decided.values["status"] == "completed"
        chosen = next(vote for vote in weak.votes if vote["run_id"] == decided.values["source_run_id"])
        return _decided(chosen if had_answer else strong, row.votes, {**kept, "escalated": False})
    return _decided(strong, row.votes, {**kept, "needs_review": False, "escalated": True})


def _is_valid(vote: Vote) -> bool:
    return has_answer(vote["status"], vote["response"])


def _decided(chosen: Vote, votes: Sequence[Vote], values: Mapping[str, Any]) -> DecidedRow:
    """The outcome of a row that takes the answer of one vote, and the sums of all."""
    now = datetime.now(UTC)
    started = min((vote["started_at"] for vote in votes if vote["started_at"] is not None), default=None)
    sources = {vote["cost_source"] for vote in votes}
    return DecidedRow(
        row_id=chosen["row_id"],
        values={
            **{name: chosen[name] for name in CHOSEN_COLUMNS},
            **{name: total_of(vote[name] for vote in votes) for name in (*TOKEN_COLUMNS, "cost_pico")},
            "cost_source": next((one for one in _COST_SOURCES if one in sources), None),
            "attempts": sum(vote["attempts"] for vote in votes),
            "reused": all(vote["reused"] for vote in votes),
            "waits_until": None,
            "started_at": started,
            "completed_at": now,
            "duration_s": 0.0 if started is None else (now - started).total_seconds(),
            "source_run_id": chosen["run_id"],
            "source_row_id": chosen["row_id"],
            **values,
        },
    )
