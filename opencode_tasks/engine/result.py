"""Result of a run: frames for Python, and a summary of plain values for ``--json`` and Prefect."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Generic, cast

import pandas as pd
from typing_extensions import TypeVar

from opencode_tasks.domain.json_values import list_in
from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.engine.model_quality import ModelQuality, models_json, read_model_quality
from opencode_tasks.engine.vote_counts import VoteQuality, escalation_json, votes_json
from opencode_tasks.frames.columns import RESPONSE, SCHEMA_FIELDS, Column
from opencode_tasks.frames.given_frames import given_back
from opencode_tasks.frames.output_frame import OF_MODELS, output_frame
from opencode_tasks.ledger import (
    ATTEMPT_COLUMNS,
    COST_COLUMNS,
    USAGE_COLUMNS,
    Budget,
    Ledger,
    Progress,
)
from opencode_tasks.plan.answer_format import AnswerFormat
from opencode_tasks.quality.drift import CanaryReport, report_in, report_json
from opencode_tasks.quality.gold import FieldQuality, quality_json

FrameT = TypeVar("FrameT", default=pd.DataFrame)
T = TypeVar("T", default=Any)
K = TypeVar("K")
STATUSES = ("open", "completed", "failed", "skipped")
ROWS_PER_PART = 10_000


class AnnotationResult(Generic[FrameT, T]):
    """Result of a run. The frames are read from the ledger on first access.

    Money is in US dollars. Unknown values are null.

    Attributes:
        run_id: Id of the run in the ledger.
        counts: Number of rows by status (open, completed, failed, skipped).
        progress: Totals of the run: rows, tokens and cost.
        budget: Cost limit of the run, and the part of it that is spent.
        frame: The input with the answer columns added: one row per input row, in input order. It is of the
            same kind as the input; a pandas frame has the input's index.
        usage: One row per model call.
        quality: Quality of each field that ``gold`` compares, by the name of the field.
        votes: Votes of the run, their agreement, and the rows that went to a stronger model; None without
            ``votes``, several models and ``escalate_to``.
        canary: Results of the canaries of the run, compared with earlier runs; None without ``canary``.
        models: Answers of each of several models; empty for a run with one model.
        attempts: One row per execution of a row.
        cost: One row per model.
        answers: Answers of the rows in input order, None for a row without one: instances of the
            ``output_type`` of ``annotate``, the JSON values of other structured answers, else texts. Raises
            pydantic's ValidationError if an answer that was reused does not pass the type's validators.

    Examples:
        >>> import pandas as pd
        >>> from opencode_tasks import annotate
        >>> frame = pd.DataFrame({"prompt": ["one", "two"]}, index=["a", "b"])
        >>> result = annotate(frame, backend="null")
        >>> result.frame[["response", "status"]]
          response     status
        a      one  completed
        b      two  completed
        >>> result.counts
        {'open': 0, 'completed': 2, 'failed': 0, 'skipped': 0}
        >>> len(result.attempts)
        2
    """

    def __init__(
        self,
        *,
        run_id: str,
        progress: Progress,
        budget: Budget,
        ledger_url: str,
        source: pd.DataFrame,
        columns: Sequence[Column],
        answer_format: AnswerFormat | None = None,
        kind: type[FrameT] | None = None,
        qualities: Sequence[FieldQuality] = (),
        votes: VoteQuality | None = None,
        canary: CanaryReport | None = None,
        models: Sequence[ModelQuality] = (),
    ) -> None:
        self._kind = kind
        self.run_id = run_id
        self.progress = progress
        self.budget = budget
        self.quality: Final = {one.field: one for one in qualities}
        self.votes = votes
        self.canary = canary
        self.models: Final = tuple(models)
        self.counts: Final = {name: getattr(progress, name) for name in STATUSES}
        self._ledger_url = ledger_url
        self._source = source
        self._columns = columns
        self._answer_format = answer_format

    def __getstate__(self) -> dict[str, Any]:
        """All frames, without the URL of the ledger, which can hold a password."""
        _ = self.frame, self.usage, self.attempts, self.cost, self.answers
        return self.__dict__ | {"_ledger_url": "", "_source": pd.DataFrame()}

    def parts(self) -> Iterator[pd.DataFrame]:
        """The frame in parts of 10,000 rows, at least one part, each read when it is needed."""
        with Ledger.open(self._ledger_url) as ledger:
            yield from output_parts(ledger, self.run_id, self._source, self._columns)

    @cached_property
    def frame(self) -> FrameT:
        """The input with the answer columns added."""
        return given_back(self.parts(), self._kind)

    def of_kind(self, kind: type[K]) -> AnnotationResult[K, T]:
        """This result, whose ``frame`` becomes a frame of another class."""
        self.__dict__ |= {"_kind": kind}
        self.__dict__.pop("frame", None)
        return cast("AnnotationResult[K, T]", self)

    @cached_property
    def answers(self) -> list[T | None]:
        """The answer of each row."""
        with Ledger.open(self._ledger_url) as ledger:
            outcomes = ledger.results.outcomes(self.run_id)
        return [self._answer(outcome) if outcome["status"] == "completed" else None for outcome in outcomes]

    def _answer(self, outcome: Mapping[str, Any]) -> Any:
        if self._answer_format is None:
            return outcome[RESPONSE.ledger_name]
        return self._answer_format.read(outcome[SCHEMA_FIELDS.ledger_name])

    @cached_property
    def usage(self) -> pd.DataFrame:
        """Tokens and cost of each model call."""
        with Ledger.open(self._ledger_url) as ledger:
            return _money_frame(ledger.results.usage(self.run_id), USAGE_COLUMNS)

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """Each execution of a row, with its error if it failed."""
        with Ledger.open(self._ledger_url) as ledger:
            return _money_frame(ledger.results.attempts(self.run_id), ATTEMPT_COLUMNS)

    @cached_property
    def cost(self) -> pd.DataFrame:
        """Rows, model calls, tokens and cost of each model."""
        with Ledger.open(self._ledger_url) as ledger:
            return _money_frame(ledger.results.cost(self.run_id), COST_COLUMNS)


def read_result(
    ledger: Ledger,
    run_id: str,
    source: pd.DataFrame,
    columns: Sequence[Column],
    answer_format: AnswerFormat | None,
    *,
    qualities: Sequence[FieldQuality] = (),
    votes: VoteQuality | None = None,
    canary: CanaryReport | None = None,
    models: Sequence[ModelQuality] = (),
) -> AnnotationResult[Any]:
    """Result of a run over ``source`` as the ledger has it, whether the run has ended or not."""
    return AnnotationResult(
        run_id=run_id,
        progress=ledger.runs.progress(run_id),
        budget=ledger.budgets.get(run_id),
        ledger_url=ledger.url,
        source=source,
        columns=columns,
        answer_format=answer_format,
        qualities=qualities,
        votes=votes,
        canary=canary,
        models=models,
    )


def output_parts(
    ledger: Ledger, run_id: str, source: pd.DataFrame, columns: Sequence[Column]
) -> Iterator[pd.DataFrame]:
    """OUTPUT of a run over ``source``, in parts of 10,000 rows; one empty part for an empty source."""
    for start in range(0, max(1, len(source)), ROWS_PER_PART):
        rows = cast("pd.DataFrame", source.iloc[start : start + ROWS_PER_PART])
        span = range(start, start + ROWS_PER_PART)
        part = output_frame(rows, _outcomes(ledger, run_id, span, columns), columns)
        # The types of the columns of the source.
        part.attrs = source.attrs
        yield part


def _outcomes(ledger: Ledger, run_id: str, span: range, columns: Sequence[Column]) -> list[dict[str, Any]]:
    """The outcomes of the rows at these positions, with those of several models if ``columns`` have them."""
    outcomes = ledger.results.outcomes(run_id, span)
    models = [*dict.fromkeys(column.model for column in columns if column.model is not None)]
    if not models:
        return outcomes
    answers = ledger.votes.answers(run_id, span)
    return [
        outcome | {OF_MODELS: {models[part - 1]: one for part, one in found.items() if part <= len(models)}}
        for outcome in outcomes
        for found in (answers.get(outcome["row_id"], {}),)
    ]


def summary(
    run_id: str,
    progress: Progress,
    budget: Budget,
    *,
    started: float | None,
    quality: Mapping[str, FieldQuality] | None = None,
    votes: VoteQuality | None = None,
    canary: CanaryReport | None = None,
    models: Sequence[ModelQuality] = (),
) -> dict[str, Any]:
    """Rows by status, tokens, cost in USD, and seconds since ``started``; unknown values are None.

    ``started`` is a Unix time; None leaves the seconds unknown. ``budget`` holds the limit in USD
    (None without one), the amount spent, the most that calls without a report may have cost, and the
    amount by which the limit is exceeded. ``quality`` is that of each field with gold values, by its name,
    ``votes`` None for a run without votes, ``canary`` None for one without measured canaries,
    ``models`` those of a run with several. ``reviewed_rows`` have the answer of a person.
    """
    counts = {name: getattr(progress, name) for name in STATUSES}
    return {
        "run_id": run_id,
        "rows": {"total": progress.total, **counts, "reused": progress.reused},
        "reviewed_rows": progress.reviewed,
        "tokens": {name: getattr(progress, name) for name in TOKEN_COLUMNS},
        "cost_usd": pico_to_usd(progress.cost_pico),
        "known_cost_usd": pico_to_usd(progress.known_cost_pico),
        "budget": _budget_summary(budget),
        "seconds": None if started is None else round(time.time() - started, 3),
        "quality": quality_json([*(quality or {}).values()]),
        "votes": None if votes is None or votes.votes == 1 else votes_json(votes),
        "escalation": None
        if votes is None or votes.escalation is None
        else escalation_json(votes.escalation),
        "canary": None if canary is None else report_json(canary),
        "models": models_json(models),
    }


def read_summary(ledger_url: str, run_id: str) -> dict[str, Any]:
    """Summary of a run that has not ended; its seconds are None."""
    with Ledger.open(ledger_url) as ledger:
        report = ledger.canaries.report(run_id)
        return summary(
            run_id,
            ledger.runs.progress(run_id),
            ledger.budgets.get(run_id),
            started=None,
            canary=None if report is None else report_in(report),
            models=read_model_quality(ledger, run_id, ()),
        )


def _budget_summary(budget: Budget) -> dict[str, float | None]:
    over = max(0, budget.spent_pico - budget.max_cost_pico) if budget.max_cost_pico is not None else 0
    return {
        "max_usd": pico_to_usd(budget.max_cost_pico),
        "spent_usd": pico_to_usd(budget.spent_pico),
        "unreported_at_most_usd": pico_to_usd(budget.reserved_pico),
        "over_usd": pico_to_usd(over),
    }


def _money_frame(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Ledger records as a frame, pico-dollars converted to USD; without records, the columns alone."""
    frame = pd.DataFrame(records, columns=pd.Index(columns))
    for name in [column for column in columns if column.endswith("_pico")]:
        pico = list_in(cast("Any", frame.pop(name)).tolist())
        usd = pd.array([pico_to_usd(value) for value in pico], dtype="Float64")
        frame[name.removesuffix("_pico") + "_usd"] = usd
    return frame
