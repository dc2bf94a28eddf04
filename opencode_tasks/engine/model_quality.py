"""Answers of each of several models of a run: their number, cost, agreement and accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.domain.usage import total_of
from opencode_tasks.engine.quality import measure_quality, schema_of_run
from opencode_tasks.engine.vote_counts import MAX_COUNTED_ROWS
from opencode_tasks.ledger import Ledger
from opencode_tasks.plan.gold import GoldField
from opencode_tasks.quality.gold import FieldQuality
from opencode_tasks.quality.votes import VotedField, comparable_fields, tally, voted_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuality:
    """Answers of one of several models of a run.

    Attributes:
        model: The model, with its variant.
        rows: Number of rows that it was asked.
        answered: Number of rows that have its answer.
        reused: Number of rows with its answer from an earlier run.
        cost_usd: Cost of its rows in this run in USD; None if a part is unknown.
        agreement: Share of its answers that equal the answer of most models, over the first 100,000 rows;
            None without an answer.
        accuracy: Share of its correct answers in each field with gold values; empty without gold values.

    Examples:
        >>> from opencode_tasks import ModelQuality
        >>> ModelQuality(model="a/small#low", rows=12, answered=11, reused=0, cost_usd=0.02).answered
        11
    """

    model: str
    rows: int
    answered: int
    reused: int
    cost_usd: float | None
    agreement: float | None = None
    accuracy: Mapping[str, float | None] = field(default_factory=dict[str, float | None])


def read_model_quality(ledger: Ledger, run_id: str, gold: Sequence[GoldField]) -> list[ModelQuality]:
    """Answers of each of several models so far; empty for a run with one model.

    Whether each answer of a model equals its gold value is recorded in the ledger.
    """
    names = ledger.votes.names(run_id).models
    if not names:
        return []
    agreement = _agreement(ledger, run_id, len(names))
    parts = ledger.votes.parts(run_id)
    return [
        _model_quality(ledger, run_id, name, [one.run_id for one in parts if one.part == number], gold, share)
        for number, (name, share) in enumerate(zip(names, agreement, strict=True), start=1)
    ]


def _model_quality(
    ledger: Ledger,
    run_id: str,
    name: str,
    part_ids: Sequence[str],
    gold: Sequence[GoldField],
    agreement: float | None,
) -> ModelQuality:
    counts = [ledger.runs.progress(one) for one in part_ids]
    measured: list[FieldQuality] = []
    for one in part_ids if gold else ():
        ledger.gold.copy(run_id, one)
        measured += measure_quality(ledger, one, gold)
    by_field = {one.field: [found for found in measured if found.field == one.field] for one in gold}
    return ModelQuality(
        model=name,
        rows=sum(one.total - one.skipped for one in counts),
        answered=sum(one.completed for one in counts),
        reused=sum(one.reused for one in counts),
        cost_usd=pico_to_usd(total_of(one.cost_pico for one in counts)),
        agreement=agreement,
        accuracy={name: _accuracy(found) for name, found in by_field.items()},
    )


def _accuracy(found: Sequence[FieldQuality]) -> float | None:
    rows = sum(one.n for one in found)
    return sum(one.correct for one in found) / rows if rows else None


def _agreement(ledger: Ledger, run_id: str, models: int) -> list[float | None]:
    """For each model, the share of its answers that equal the answer of most models."""
    fields = voted_fields(schema_of_run(ledger, run_id))
    answered, equal = [0] * models, [0] * models
    for text in ledger.votes.decided(run_id, MAX_COUNTED_ROWS):
        answers: list[Any] = json.loads(text)
        chosen = tally(answers, [one is not None for one in answers], fields, models).chosen
        for number, answer in enumerate(answers[:models]):
            if answer is not None and chosen is not None:
                answered[number] += 1
                equal[number] += _is_equal(answer, answers[chosen], fields)
    return [part / total if total else None for part, total in zip(equal, answered, strict=True)]


def _is_equal(answer: Any, other: Any, fields: Sequence[VotedField]) -> bool:
    return comparable_fields(answer, fields) == comparable_fields(other, fields)


def models_json(models: Sequence[ModelQuality]) -> list[dict[str, Any]]:
    """The models of a run as ``--json`` has them."""
    return [
        {
            "model": one.model,
            "rows": one.rows,
            "answered": one.answered,
            "reused": one.reused,
            "cost_usd": one.cost_usd,
            "agreement": one.agreement,
            "accuracy": dict(one.accuracy),
        }
        for one in models
    ]
