"""The vote whose work a row takes."""

from __future__ import annotations

from typing import Any

import pytest

from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.engine.vote_outcomes import VotedRow
from opencode_tasks.ledger.votes import CHOSEN_COLUMNS


def vote(part: int, response: str, *, check_passed: bool | None) -> dict[str, Any]:
    columns = dict.fromkeys((*CHOSEN_COLUMNS, *TOKEN_COLUMNS, "cost_pico", "cost_source", "started_at"))
    named = {"part": part, "response": response, "check_passed": check_passed, "run_id": f"vote {part}"}
    return {**columns, **named, "status": "completed", "row_id": "r", "attempts": 1, "reused": False}


@pytest.mark.parametrize(
    ("votes", "chosen"),
    [
        ([("fixed", False), ("fixed", True), ("gave up", True)], 1),
        # A check decides between equal answers alone, and one that did not run says nothing.
        ([("fixed", False), ("fixed", False), ("gave up", True)], 0),
        ([("fixed", None), ("fixed", True)], 0),
        ([("fixed", True), ("fixed", True)], 0),
    ],
)
def test_of_equal_answers_one_with_a_passed_check_is_chosen(
    votes: list[tuple[str, bool | None]], chosen: int
) -> None:
    given = [vote(part, text, check_passed=passed) for part, (text, passed) in enumerate(votes, 1)]
    row = VotedRow.of(given, None)
    outcome = row.outcome(row.tally(len(given), len(given)))
    assert outcome.values["source_run_id"] == f"vote {chosen + 1}"
