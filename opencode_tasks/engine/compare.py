"""Comparison of two runs over the same rows: answers, accuracy, cost and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.engine.quality import answer_in, fields_of, kind_in
from opencode_tasks.engine.run_check import checked_run
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import Ledger
from opencode_tasks.quality.agreement import ChangedAnswer, FieldComparison, compare
from opencode_tasks.quality.estimate import covered_s
from opencode_tasks.quality.gold import comparable, require_extra

ENDED = ("completed", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One of the compared runs.

    ``answers_cost_pico`` is the cost of the answers to the common rows, also of those that an earlier run
    paid for; None if a part is unknown. ``seconds`` is the time in which rows were in flight; None if no row
    was sent.
    """

    run_id: str
    model_ref: str | None
    answered: int
    unanswered: int
    answers_cost_pico: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs: ``common`` rows are in both, by their ids, ``only_first`` and ``only_second`` in one."""

    first: ComparedRun
    second: ComparedRun
    common: int
    only_first: int
    only_second: int
    fields: Sequence[FieldComparison]


def compare_runs(ledger: Ledger, first_id: str, second_id: str) -> Comparison:
    """Compare two runs.

    Raises InputError if a run does not exist, or if they have no row or no field in common.
    """
    require_extra("compare")
    first, second = (_Answers.of(ledger, run_id) for run_id in (first_id, second_id))
    common = [row_id for row_id in first.outcomes if row_id in second.outcomes]
    if not common:
        raise InputError((f"{first_id} and {second_id} have no row in common: their ids differ",))
    fields = [field for field in first.fields if field in second.fields]
    if not fields:
        fault = f"the answers of {first_id} and {second_id} have no field in common: {first}, {second}"
        raise InputError((fault,))
    return Comparison(
        first=_run(first, common),
        second=_run(second, common),
        common=len(common),
        only_first=len(first.outcomes) - len(common),
        only_second=len(second.outcomes) - len(common),
        fields=[_field(ledger, field, common, first, second) for field in fields],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """The outcomes of a run by row id, without the answers of persons, and the schema of its answers."""

    run_id: str
    model_ref: str | None
    schema: Mapping[str, Any] | None
    outcomes: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, ledger: Ledger, run_id: str) -> _Answers:
        """Read a run. Raises InputError if it does not exist, and if its rows are not all written."""
        # Without the counts of ``runs.get``, which read all rows.
        run = checked_run(run_id, ledger.row_list.run(run_id))
        schema = mapping_in(run["parameters"]).get("schema")
        answers = ledger.results.answers(run_id, has_schema=schema is not None)
        outcomes = {one["row_id"]: one for one in answers}
        for row_id, answer in ledger.reviews.model_answers(run_id).items():
            outcomes[row_id] |= {
                "status": answer.status,
                "has_response": answer.response is not None,
                "value": answer.response if schema is None else answer.structured,
            }
        return cls(run_id=run_id, model_ref=run["model_ref"], schema=schema, outcomes=outcomes)

    @property
    def fields(self) -> list[str]:
        return fields_of(self.schema)

    def __str__(self) -> str:
        return ", ".join(self.fields) or "none"

    def answer(self, row_id: str, field: str) -> tuple[bool, Any]:
        """Whether a row has an answer, and the value of a field in it."""
        outcome = self.outcomes[row_id]
        value = answer_in(outcome["value"], outcome["value"], field, self.schema)
        return _has_answer(outcome), value


def _has_answer(outcome: Mapping[str, Any]) -> bool:
    """Whether a row has an answer, as ``quality.has_answer`` defines it."""
    return outcome["status"] == "completed" and outcome["has_response"]


def _field(
    ledger: Ledger, field: str, common: Sequence[str], first: _Answers, second: _Answers
) -> FieldComparison:
    kind = kind_in(first.schema, field)
    known = ledger.gold.values(first.run_id, field), ledger.gold.values(second.run_id, field)
    conflicting = {
        row_id
        for row_id in common
        if all(row_id in one for one in known)
        and comparable(known[0][row_id], kind) != comparable(known[1][row_id], kind)
    }
    gold = {row_id: value for row_id, value in (known[1] | known[0]).items() if row_id not in conflicting}
    answers: list[ChangedAnswer] = []
    for row_id in common:
        (has_first, a), (has_second, b) = first.answer(row_id, field), second.answer(row_id, field)
        if has_first and has_second:
            answers.append(ChangedAnswer(row_id=row_id, first=a, second=b, gold=gold.get(row_id)))
    return replace(compare(field, kind, answers), conflicting_gold=len(conflicting))


def _run(run: _Answers, common: Sequence[str]) -> ComparedRun:
    of_common = [run.outcomes[row_id] for row_id in common]
    # The cost of a copied answer is that of the row of the same run from which it was copied.
    paid = [one for one in of_common if one["status"] in ENDED and one["source_run_id"] != run.run_id]
    costs = [one["cost_pico"] for one in paid]
    times = [
        (one["started_at"].timestamp(), one["completed_at"].timestamp())
        for one in run.outcomes.values()
        if one["started_at"] is not None and one["completed_at"] is not None
    ]
    answered = sum(_has_answer(one) for one in of_common)
    return ComparedRun(
        run_id=run.run_id,
        model_ref=run.model_ref,
        answered=answered,
        unanswered=len(common) - answered,
        answers_cost_pico=None if None in costs else sum(costs),
        seconds=covered_s(times) if times else None,
    )
