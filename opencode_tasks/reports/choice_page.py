"""The result of ``opencode-tasks choose`` as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

from opencode_tasks.domain.money import usd_to_pico
from opencode_tasks.engine.choice_text import error_lines, verdict_lines
from opencode_tasks.engine.choose import Choice, Standing
from opencode_tasks.reports.cost_accuracy_chart import Point, State, cost_and_accuracy
from opencode_tasks.reports.drawing import Chart
from opencode_tasks.reports.html import html_environment
from opencode_tasks.reports.scales import share_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A candidate in the table. ``number`` is its place on the command line, from 1.

    Costs are in pico-dollars. None is an unknown value.
    """

    number: int
    name: str
    rows: int
    unanswered: int
    accuracy: float | None
    low: float | None
    high: float | None
    row_pico: int | None
    label_pico: int | None
    row_seconds: float | None
    state: State
    result: str


def choice_page(
    found: Choice, *, task: Mapping[str, str], command: str | None, now: datetime, source: str
) -> str:
    """Return the HTML of a choice.

    ``task`` has what the models were asked, by the names of the options. ``command`` annotates the whole
    table with the chosen model; None without one. ``source`` is the address of the table without its secrets.
    """
    lines = [_line(number, one, found) for number, one in enumerate(found.standings, start=1)]
    return (
        html_environment("opencode_tasks.reports")
        .get_template("choice.html")
        .render(
            target=share_text(found.target),
            rows=found.rows,
            lines=lines,
            chosen=next((line for line in lines if line.state == "chosen"), None),
            verdicts=[*error_lines(found.standings), *_verdicts(found)],
            chart=_chart(lines, found.target),
            not_drawn=[line for line in lines if line.accuracy is None],
            task=task,
            command=command,
            created_at=now,
            source=source,
            version=version("opencode-tasks"),
        )
    )


def _verdicts(found: Choice) -> list[str]:
    """The lines about the winner as sentences. Without a winner, the heading of the page is the last one."""
    lines = verdict_lines(found)[: None if found.chosen else -1]
    return [f"{line[0].upper()}{line[1:]}" for line in lines]


def _line(number: int, one: Standing, found: Choice) -> Line:
    measured = one.measured
    low, high = measured.accuracy_interval()
    state: State = "measured" if one.dropped is None else "dropped"
    if measured is found.chosen:
        # One that was dropped for its cost is chosen if the cheaper one misses the target in the end.
        state, result = "chosen", "chosen"
    elif one.dropped is not None:
        result = f"dropped: {one.dropped}"
    elif measured.reaches(found.target):
        result = "reaches the target, and costs more or an unknown amount"
    else:
        result = "below the target"
    return Line(
        number=number,
        name=measured.candidate.name,
        rows=measured.rows,
        unanswered=len(measured.errors),
        accuracy=measured.accuracy,
        low=low,
        high=high,
        row_pico=_pico(measured.row_usd),
        label_pico=_pico(measured.label_usd),
        row_seconds=measured.row_seconds,
        state=state,
        result=result,
    )


def _pico(usd: float | None) -> int | None:
    return None if usd is None else usd_to_pico(usd)


def _chart(lines: list[Line], target: float) -> Chart | None:
    """The chart; None if no candidate was measured."""
    points = [
        Point(
            number=line.number,
            name=line.name,
            share=line.accuracy,
            low=line.low,
            high=line.high,
            cost_pico=line.row_pico,
            state=line.state,
        )
        for line in lines
        if line.accuracy is not None and line.low is not None and line.high is not None
    ]
    return cost_and_accuracy(points, target=target, title="Cost and accuracy") if points else None
