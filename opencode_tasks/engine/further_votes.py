"""Votes that may follow the first ones on each row, as far as the answers in the ledger decide it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from opencode_tasks.engine.vote_outcomes import VotedRow
from opencode_tasks.ledger import Ledger
from opencode_tasks.plan.plan import Plan
from opencode_tasks.quality.votes import first_votes

ROWS_AT_ONCE = 1000


def further_votes(
    ledger: Ledger, plan: Plan, firsts: Mapping[int, Sequence[str]], answered: Collection[str]
) -> dict[int, int]:
    """The most votes that may be sent after the first ones, by the position of the row.

    ``firsts`` has the keys of the first votes of each row, and ``answered`` those of them whose answers the
    ledger has. Without one of these, all further votes may follow; else as many as the majority needs.
    """
    votes = plan.options.votes_per_row
    found = {
        position: votes - first_votes(votes)
        for position, keys in firsts.items()
        if any(key not in answered for key in keys)
    }
    known = {position: [*keys] for position, keys in firsts.items() if position not in found}
    for number in range(first_votes(votes), votes):
        undecided = dict(_undecided(ledger, plan, known))
        if not undecided:
            break
        next_keys = {
            row.position: row.row_key
            for row in replace(plan.rows, number=number)
            if row.position in undecided
        }
        has_answer = ledger.ended_rows.answered([*set(next_keys.values())], refresh=plan.options.refresh)
        known = {}
        for position, key in next_keys.items():
            if key in has_answer:
                known[position] = [*undecided[position], key]
            else:
                found[position] = votes - number
    return {position: count for position, count in found.items() if count}


def _undecided(ledger: Ledger, plan: Plan, known: Mapping[int, list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Those of the rows whose answers have no majority yet."""
    votes = plan.options.votes_per_row
    rows = iter(known.items())
    while some := [*islice(rows, ROWS_AT_ONCE)]:
        answers = ledger.ended_rows.answers(
            {key for _, keys in some for key in keys}, refresh=plan.options.refresh
        )
        for position, keys in some:
            given = [{**answers[key], "part": part, "of_position": position} for part, key in enumerate(keys)]
            row = VotedRow.of(given, plan.options.schema)
            if not row.tally(len(keys), votes).is_decided:
                yield position, keys
