"""The result of ``opencode-tasks compare`` as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from opencode_tasks.domain.money import format_usd
from opencode_tasks.domain.text import shorten
from opencode_tasks.engine.compare import ComparedRun, Comparison
from opencode_tasks.engine.progress_text import duration
from opencode_tasks.ledger import Ledger
from opencode_tasks.quality.agreement import SIGNIFICANT, FieldComparison
from opencode_tasks.quality.gold import interval
from opencode_tasks.reports.accuracy_chart import Accuracy, accuracy_by_name
from opencode_tasks.reports.drawing import Chart
from opencode_tasks.reports.html import html_environment

# Rows with different answers that are listed for each field.
MAX_CHANGED = 1000
MAX_PROMPT_CHARS = 600
MAX_ANSWER_CHARS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedRow:
    """A row with two different answers, as texts. ``gold`` is None without a known value."""

    row_id: str
    prompt: str
    first: str
    second: str
    gold: str | None
    is_first_right: bool
    is_second_right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSection:
    """A field of the answers. ``left_out`` counts the changed rows that are not in ``changed``."""

    found: FieldComparison
    title: str
    chart: Chart | None
    is_difference: bool
    changed: Sequence[ChangedRow]
    left_out: int


def comparison_page(ledger: Ledger, found: Comparison, *, now: datetime, source: str) -> str:
    """Return the HTML of a comparison; the prompts of the changed rows are read from the ledger.

    ``source`` is the URL of the ledger without its password.
    """
    return (
        html_environment("opencode_tasks.reports")
        .get_template("comparison.html")
        .render(
            found=found,
            differences=_differences(found),
            times=[_time(run.seconds) for run in (found.first, found.second)],
            sections=[_section(ledger, found, one) for one in found.fields],
            created_at=now,
            source=source,
            version=version("opencode-tasks"),
        )
    )


def _time(seconds: float | None) -> str:
    return "no row sent" if seconds is None else duration(seconds)


def _differences(found: Comparison) -> Mapping[str, str]:
    """Cost and time of B beside those of A, as texts."""
    first, second = found.first, found.second
    return {
        "cost": _difference(first.answers_cost_pico, second.answers_cost_pico, format_usd),
        "time": _difference(first.seconds, second.seconds, duration),
    }


def _difference(first: float | None, second: float | None, text: Callable[[Any], str]) -> str:
    """The second value minus the first one, and its share of the first one."""
    if first is None or second is None:
        return "unknown"
    change = second - first
    if not change:
        return "equal"
    share = f" ({change / first:+.0%})" if first else ""
    return f"{'+' if change >= 0 else '-'}{text(abs(change))}{share}"


def _section(ledger: Ledger, found: Comparison, one: FieldComparison) -> FieldSection:
    shown = one.changed[:MAX_CHANGED]
    prompts = ledger.results.prompts_of(
        found.first.run_id, [row.row_id for row in shown], MAX_PROMPT_CHARS + 1
    )
    return FieldSection(
        found=one,
        title="Answers" if one.field == "response" else f"Answers: {one.field}",
        chart=_chart(found.first, found.second, one),
        is_difference=one.accuracy is not None and one.accuracy.p_value < SIGNIFICANT,
        changed=[
            ChangedRow(
                row_id=row.row_id,
                prompt=shorten(prompts.get(row.row_id, ""), MAX_PROMPT_CHARS),
                first=_text(row.first),
                second=_text(row.second),
                gold=None if row.gold is None else _text(row.gold),
                is_first_right=row.gold is not None and one.is_right(row.first, row.gold),
                is_second_right=row.gold is not None and one.is_right(row.second, row.gold),
            )
            for row in shown
        ],
        left_out=len(one.changed) - len(shown),
    )


def _chart(first: ComparedRun, second: ComparedRun, one: FieldComparison) -> Chart | None:
    """The accuracy of both runs; None without known values."""
    accuracy = one.accuracy
    if accuracy is None:
        return None
    pairs = ((f"A {first.model_ref or ''}", accuracy.first), (f"B {second.model_ref or ''}", accuracy.second))
    return accuracy_by_name(
        [
            Accuracy(name=name.strip(), n=accuracy.n, share=share, low=low, high=high)
            for name, share in pairs
            for low, high in (interval(round(share * accuracy.n), accuracy.n),)
        ],
        title=f"Accuracy of {one.field}",
    )


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shorten(text, MAX_ANSWER_CHARS)
