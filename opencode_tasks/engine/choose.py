"""Choose: measure several models on rows with known answers, and find the cheapest that is good enough.

Each candidate is measured by runs over one part of the rows after the other, so that a row has one outcome in
a choice: one that failed is not asked again. A candidate that cannot win any more is dropped in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Any, cast

import pandas as pd

from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.engine.quality import has_answer
from opencode_tasks.errors import RunPausedError
from opencode_tasks.ledger import BUDGET_REACHED, Ledger
from opencode_tasks.outcomes.message_cleanup import one_line
from opencode_tasks.plan.gold import GoldField, gold_cells
from opencode_tasks.plan.plan import Plan
from opencode_tasks.quality.candidates import Candidate, Measured, drop_reason, winner

# Rows of the first stage; each stage has twice as many.
FIRST_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A candidate so far. ``dropped`` is the reason why it is not measured further, None while it is.

    ``spent_usd`` is what its runs have cost, unreported calls by their upper bound. ``is_on_hold``: it was
    dropped because its provider refused rows.
    """

    measured: Measured
    run_ids: tuple[str, ...] = ()
    spent_usd: float = 0.0
    dropped: str | None = None
    is_on_hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Result of a choice: the candidates in the order in which they were named, and the winner, if any."""

    target: float
    rows: int
    standings: Sequence[Standing]
    chosen: Measured | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Rows, candidates and limits of a choice.

    - ``frame``: the rows with known answers; ``rows``: how many of them are used at most.
    - ``plan_of``: the plan of a candidate over a part of the frame, with the most that it may cost in USD.
    - ``run``: executes a plan and returns the id of its run.
    - ``on_stage``: called with the number of rows and the standings after each stage.
    """

    frame: pd.DataFrame
    gold: Sequence[GoldField]
    candidates: Sequence[Candidate]
    target: float
    rows: int
    ledger_url: str
    max_cost: float | None
    plan_of: Callable[[Candidate, pd.DataFrame, float | None], Plan]
    run: Callable[[Plan, pd.DataFrame, Candidate], str]
    on_stage: Callable[[int, Sequence[Standing]], None]


def gold_positions(frame: pd.DataFrame, gold: Sequence[GoldField]) -> list[int]:
    """The positions of the rows that have a known value in each gold field."""
    counts = Counter(position for position, _, _ in gold_cells(frame, gold))
    return sorted(position for position, count in counts.items() if count == len(gold))


def stages(rows: int) -> list[int]:
    """The numbers of rows after which the candidates are compared, the last one for all."""
    found = [FIRST_ROWS]
    while found[-1] < rows:
        found.append(found[-1] * 2)
    return [min(count, rows) for count in found if count < rows] + [rows]


def choose(race: Race) -> Choice:
    """Measure the candidates until one has won or all rows were used.

    Raises as a run does; the answers so far are in the ledger, so that the same call continues.
    """
    order = Random(len(race.frame)).sample(range(len(race.frame)), race.rows)  # noqa: S311  no secret
    standings = [Standing(measured=Measured(candidate=one)) for one in race.candidates]
    for before, count in pairwise((0, *stages(race.rows))):
        part = cast("pd.DataFrame", race.frame.iloc[sorted(order[before:count])])
        for at, one in enumerate(standings):
            if one.dropped is None:
                standings[at] = _measured(race, one, part, sum(other.spent_usd for other in standings))
        standings = _with_drops(standings, race.target)
        race.on_stage(count, standings)
        if sum(one.dropped is None for one in standings) <= _enough(standings, race.target):
            break
    # One that was dropped for its cost wins if the cheaper one does not reach the target in the end.
    usable = [one.measured for one in standings if not one.is_on_hold]
    return Choice(target=race.target, rows=race.rows, standings=standings, chosen=winner(usable, race.target))


def _enough(standings: Sequence[Standing], target: float) -> int:
    """The number of candidates with which further rows change nothing: one that surely wins, or none."""
    left = [one.measured for one in standings if one.dropped is None]
    is_sure = len(left) == 1 and (left[0].accuracy_interval()[0] or 0.0) >= target
    return 1 if is_sure else 0


def _measured(race: Race, standing: Standing, part: pd.DataFrame, spent_usd: float) -> Standing:
    """The candidate after it was asked these rows too; ``spent_usd`` is the cost of all candidates so far."""
    candidate = standing.measured.candidate
    left = None if race.max_cost is None else max(0.0, race.max_cost - spent_usd)
    plan = race.plan_of(candidate, part, left)
    dropped: str | None = None
    try:
        run_id = race.run(plan, part, candidate)
    except RunPausedError as paused:
        if paused.error_type == BUDGET_REACHED:
            raise
        # A model without access says nothing about the others.
        run_id, dropped = paused.run_id, f"on hold with {paused.error_type}: {one_line(paused.message)}"
    with Ledger.open(race.ledger_url) as ledger:
        budget = ledger.budgets.get(run_id)
        cost_usd = pico_to_usd(budget.spent_pico + budget.reserved_pico) or 0.0
        found = _read(ledger, run_id, candidate, race.gold)
    # A run on hold has rows without an answer, which say nothing about the model.
    measured = standing.measured if dropped and standing.measured.rows else standing.measured.plus(found)
    return replace(
        standing,
        measured=measured,
        run_ids=(*standing.run_ids, run_id),
        spent_usd=standing.spent_usd + cost_usd,
        dropped=dropped,
        is_on_hold=dropped is not None,
    )


def _with_drops(standings: Sequence[Standing], target: float) -> list[Standing]:
    measured = [one.measured for one in standings]
    return [
        replace(one, dropped=one.dropped or drop_reason(one.measured, _others(measured, one), target))
        for one in standings
    ]


def _others(measured: Sequence[Measured], standing: Standing) -> list[Measured]:
    return [one for one in measured if one is not standing.measured]


def _read(ledger: Ledger, run_id: str, candidate: Candidate, gold: Sequence[GoldField]) -> Measured:
    """The candidate's figures, from the rows of one run."""
    outcomes = ledger.results.outcomes(run_id)
    correct = {
        outcome["row_id"] for outcome in outcomes if has_answer(outcome["status"], outcome["response"])
    }
    errors = [one["error_type"] or one["status"] for one in outcomes if one["row_id"] not in correct]
    for one in gold:
        correct &= ledger.gold.correct(run_id, one.field)
    return Measured(
        candidate=candidate,
        rows=len(outcomes),
        correct=len(correct),
        errors=errors,
        costs_usd=[pico_to_usd(outcome["cost_pico"]) for outcome in outcomes],
        seconds=[outcome["duration_s"] for outcome in outcomes if _was_sent(outcome)],
    )


def _was_sent(outcome: Mapping[str, Any]) -> bool:
    return not outcome["reused"] and outcome["duration_s"] is not None
