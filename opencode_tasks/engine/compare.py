"""Comparison of two runs over the same rows: answers, accuracy, cost and time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opencode_tasks.domain.answer_shape import shape_of
from opencode_tasks.engine.quality import answer_in, kind_in, schema_of_run
from opencode_tasks.errors import InputError
from opencode_tasks.frames.columns import RESPONSE
from opencode_tasks.ledger import Ledger
from opencode_tasks.quality.agreement import ChangedAnswer, FieldComparison, compare
from opencode_tasks.quality.gold import require_extra

Outcomes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One of the compared runs.

    ``answers_cost_pico`` is the cost of the answers to the common rows, also of those that an earlier run
    paid for; None if a part is unknown. ``seconds`` is the time from the first row to the last outcome; None
    if no row was sent.
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
    for run_id in (first_id, second_id):
        if ledger.runs.get(run_id) is None:
            fault = f"RUN_ID: there is no run {run_id} in this ledger (see: opencode-tasks runs)"
            raise InputError((fault,))
    first, second = _outcomes(ledger, first_id), _outcomes(ledger, second_id)
    common = [row_id for row_id in first if row_id in second]
    if not common:
        raise InputError((f"{first_id} and {second_id} have no row in common: their ids differ",))
    fields = _common_fields(ledger, first_id, second_id)
    gold = {
        (value.row_id, value.field): value.value
        for run_id in (second_id, first_id)
        for value in ledger.gold.answers(run_id)
    }
    texts = [schema_of_run(ledger, run_id) is None for run_id in (first_id, second_id)]
    return Comparison(
        first=_run(ledger, first_id, first, common),
        second=_run(ledger, second_id, second, common),
        common=len(common),
        only_first=len(first) - len(common),
        only_second=len(second) - len(common),
        fields=[
            compare(
                field,
                kind_in(schema_of_run(ledger, first_id), field),
                list(_answers(field, common, (first, second), texts, gold)),
            )
            for field in fields
        ],
    )


def _outcomes(ledger: Ledger, run_id: str) -> Outcomes:
    return {outcome["row_id"]: outcome for outcome in ledger.results.outcomes(run_id)}


def _common_fields(ledger: Ledger, first_id: str, second_id: str) -> list[str]:
    """The fields that both runs have. Raises InputError if there is none."""
    first, second = (_fields(ledger, run_id) for run_id in (first_id, second_id))
    if found := [field for field in first if field in second]:
        return found
    fault = f"{first_id} has the fields {', '.join(first)}, {second_id} has {', '.join(second)}"
    raise InputError((f"{fault}: none in common",))


def _fields(ledger: Ledger, run_id: str) -> list[str]:
    schema = schema_of_run(ledger, run_id)
    shape = None if schema is None else shape_of(schema)
    return [*shape.fields] if shape is not None and shape.is_object else [RESPONSE.name]


def _answers(
    field: str,
    common: Sequence[str],
    outcomes: tuple[Outcomes, Outcomes],
    texts: Sequence[bool],
    gold: Mapping[tuple[str, str], Any],
) -> Iterator[ChangedAnswer]:
    """The answers of the rows that have both."""
    for row_id in common:
        first, second = (
            answer_in(of_run[row_id], field, is_text=is_text)
            for of_run, is_text in zip(outcomes, texts, strict=True)
        )
        if first is not None and second is not None:
            yield ChangedAnswer(row_id=row_id, first=first, second=second, gold=gold.get((row_id, field)))


def _run(ledger: Ledger, run_id: str, outcomes: Outcomes, common: Sequence[str]) -> ComparedRun:
    run = ledger.runs.get(run_id) or {}
    time = ledger.ended_rows.run_time(run_id)
    of_common = [outcomes[row_id] for row_id in common]
    costs = [outcome["cost_pico"] for outcome in of_common if outcome["status"] in ("completed", "failed")]
    answered = sum(outcome["status"] == "completed" for outcome in of_common)
    return ComparedRun(
        run_id=run_id,
        model_ref=run.get("model_ref"),
        answered=answered,
        unanswered=len(common) - answered,
        answers_cost_pico=None if None in costs else sum(costs),
        seconds=None if time is None else (time.ended_at - time.started_at).total_seconds(),
    )
