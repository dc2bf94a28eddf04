"""The section of the report page about the quality of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from opencode_tasks.ledger import ReportQueries
from opencode_tasks.quality.gold import has_extra, interval
from opencode_tasks.reports.accuracy_chart import Accuracy, accuracy_by_name
from opencode_tasks.reports.drawing import Chart

# Points of a chart; the table below it has more lines.
MAX_POINTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityLine:
    """Accuracy of one model or run in one field, as text; ``interval`` is empty if it is not known."""

    name: str
    model: str
    field: str
    accuracy: str
    interval: str
    answered_rows: int
    unanswered_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityGroup:
    """Accuracies by one column; ``view`` is the view of the ledger that has all of them."""

    title: str
    column: str
    view: str
    has_models: bool
    chart: Chart | None
    lines: Sequence[QualityLine]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualitySection:
    """Quality of the answers. ``votes`` are the lines of ``votes_by_run``."""

    groups: Sequence[QualityGroup]
    votes: Sequence[Mapping[str, Any]]
    has_intervals: bool

    @property
    def has_accuracy(self) -> bool:
        """Whether an answer was compared with a gold value."""
        return bool(self.groups)


def quality_section(report_queries: ReportQueries, since: date | None) -> QualitySection | None:
    """The quality of the runs that began since a day; None without gold values and without votes."""
    by_model = report_queries.quality_by_model(since=since)
    by_run = report_queries.quality_by_run(since=since)
    votes = report_queries.votes_by_run(since=since)
    if not by_run and not votes:
        return None
    groups = [
        _group("Accuracy by model", "model", "quality_by_model", by_model),
        _group("Accuracy by run", "run", "quality_by_run", by_run),
    ]
    return QualitySection(groups=groups if by_run else [], votes=votes, has_intervals=has_extra())


def _group(title: str, column: str, view: str, lines: Sequence[Mapping[str, Any]]) -> QualityGroup:
    has_fields = len({line["field"] for line in lines}) > 1
    found = [(line, *_interval(line)) for line in lines]
    points = [
        Accuracy(
            name=f"{_name(line, column)}, {line['field']}" if has_fields else _name(line, column),
            n=line["answered_rows"],
            share=float(line["accuracy"]),
            low=low,
            high=high,
        )
        for line, low, high in found
        if line["accuracy"] is not None
    ]
    if column == "model":
        points.sort(key=lambda point: -point.share)
    return QualityGroup(
        title=title,
        column=column,
        view=view,
        has_models=column != "model",
        chart=accuracy_by_name(points[:MAX_POINTS], title=_chart_title(title, points)) if points else None,
        lines=[
            QualityLine(
                name=_name(line, column),
                model=line["model"] or "unknown",
                field=line["field"],
                accuracy="-" if line["accuracy"] is None else f"{line['accuracy']:.1%}",
                interval="" if low is None or high is None else f"{low:.1%} to {high:.1%}",
                answered_rows=line["answered_rows"],
                unanswered_rows=line["unanswered_rows"],
            )
            for line, low, high in found
        ],
    )


def _name(line: Mapping[str, Any], column: str) -> str:
    return line[column] or "unknown"


def _chart_title(title: str, points: Sequence[Accuracy]) -> str:
    return title if len(points) <= MAX_POINTS else f"{title}: the first {MAX_POINTS}"


def _interval(line: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The Wilson interval; None twice without a row or without the extra ``quality``."""
    if not has_extra():
        return None, None
    return interval(line["correct_rows"], line["answered_rows"])
