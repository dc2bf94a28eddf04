"""The cost report as one HTML page: no script, and nothing is loaded from another address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from importlib.metadata import version
from typing import Any, get_args

from opencode_tasks.domain.records import TOKEN_COLUMNS, CostSource
from opencode_tasks.ledger import Grouping, ReportQueries
from opencode_tasks.reports.charts import Chart, cost_by_name, cost_over_time, tokens_by_model
from opencode_tasks.reports.html import html_environment
from opencode_tasks.reports.quality_section import quality_section
from opencode_tasks.reports.tool_use import read_tool_use

MAX_COSTLIEST_ROWS = 15
MAX_PROMPT_LENGTH = 160
MAX_LINES = 50
RECENT_DAYS = 7
FAILURE_SUMS = ("attempts", "failed_rows", "known_cost_pico")


def report_page(
    report_queries: ReportQueries, *, since: date | None, now: datetime, source: str, drift: float
) -> str:
    """Return the HTML of a report.

    ``since`` is the first day of the report; None starts at the first day of the ledger. ``source`` is
    the URL of the ledger without its password. If the computed cost of a model differs from the
    reported cost by more than ``drift``, a fraction of the reported cost, the page shows a warning.
    """
    with report_queries.frozen() as frozen:
        content = _content(frozen, since, now.date(), drift)
    environment = html_environment("opencode_tasks.reports")
    environment.filters["change"] = _format_change
    return environment.get_template("report.html").render(
        content, version=version("opencode-tasks"), created_at=now, source=source, max_lines=MAX_LINES
    )


def _content(report_queries: ReportQueries, since: date | None, today: date, drift: float) -> dict[str, Any]:
    """Return the variables of the template."""
    by_model = report_queries.spent(("model",), since=since)
    days = report_queries.spent(("day", "model"))
    sources = report_queries.sources(since=since)
    return {
        "period": _period(days, since, today),
        "totals": report_queries.spent(since=since)[0],
        "statuses": report_queries.rows_by_status(since=since),
        "recent": _recent_periods(days, since, today),
        "over_time": _over_time([line for line in days if since is None or line["day"] >= since]),
        "groups": _groups(report_queries, by_model, since),
        "tokens": _tokens(by_model),
        "quality": quality_section(report_queries, since),
        "tool_use": read_tool_use(report_queries, since),
        "failures": _failures(report_queries.failures(since=since)),
        "costliest": [
            _costly_row(line) for line in report_queries.costliest(MAX_COSTLIEST_ROWS, since=since)
        ],
        "sources": {name: sum(line[name] for line in sources) for name in get_args(CostSource)},
        "compared": [_compared_costs(line, drift) for line in sources if line["both"]],
        "unreported": report_queries.unreported(since=since),
    }


def _format_change(fraction: float) -> str:
    return f"{fraction:+.1%}"


def _period(days: Sequence[Mapping[str, Any]], since: date | None, today: date) -> tuple[date, date]:
    """Return the first and the last day of the report."""
    known = [line["day"] for line in days] or [today]
    return since or min(known), max(today, *known)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentPeriods:
    """Known cost of the last ``days`` days and of the same number of days before, in pico-dollars."""

    days: int
    cost_pico: int
    before_pico: int

    @property
    def change(self) -> float | None:
        """The change as a fraction of the cost before; None if that is 0."""
        return (self.cost_pico - self.before_pico) / self.before_pico if self.before_pico else None


def _recent_periods(lines: Sequence[Mapping[str, Any]], since: date | None, today: date) -> RecentPeriods:
    days = RECENT_DAYS if since is None else max(1, (today - since).days + 1)
    first = today - timedelta(days=days - 1)
    before = first - timedelta(days=days)
    return RecentPeriods(
        days=days,
        cost_pico=sum(line["known_cost_pico"] for line in lines if first <= line["day"]),
        before_pico=sum(line["known_cost_pico"] for line in lines if before <= line["day"] < first),
    )


def _over_time(lines: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Return the chart of cost over time; None if no cost is known."""
    costs = [
        {"day": line["day"], "model": line["model"] or "unknown", "cost_pico": line["known_cost_pico"]}
        for line in lines
        if line["known_cost_pico"]
    ]
    return cost_over_time(costs) if costs else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Cost by one grouping. ``lines`` have a ``name``, the most expensive first; ``column`` names them."""

    title: str
    column: str
    chart: Chart | None
    lines: Sequence[Mapping[str, Any]]


def _groups(
    report_queries: ReportQueries, by_model: Sequence[Mapping[str, Any]], since: date | None
) -> list[Group]:
    deployments = report_queries.spent(("deployment",), since=since)
    by: tuple[Grouping, ...] = ("label",)
    labels: dict[str, list[Mapping[str, Any]]] = {}
    for line in report_queries.spent(by, since=since):
        labels.setdefault(line["label"], []).append(line)
    return [
        _group("Cost by model", "model", _named(by_model, "model", "unknown")),
        _group("Cost by deployment", "deployment", _named(deployments, "deployment", "no deployment")),
        *(
            _group(f"Cost by label {name}", name, _named(lines, "label_value", "unknown"))
            for name, lines in labels.items()
        ),
    ]


def _named(lines: Sequence[Mapping[str, Any]], column: str, absent: str) -> list[Mapping[str, Any]]:
    named = [dict(line) | {"name": line[column] or absent} for line in lines]
    return sorted(named, key=lambda line: -line["known_cost_pico"])


def _group(title: str, column: str, lines: Sequence[Mapping[str, Any]]) -> Group:
    costs = [
        {"name": line["name"], "cost_pico": line["known_cost_pico"]}
        for line in lines
        if line["known_cost_pico"]
    ]
    # A single bar shows no more than its number.
    chart = cost_by_name(costs, title=title) if len(costs) > 1 else None
    return Group(title=title, column=column, chart=chart, lines=lines)


def _tokens(by_model: Sequence[Mapping[str, Any]]) -> Chart | None:
    lines = [
        {
            "name": line["model"] or "unknown",
            "kind": name.removesuffix("_tokens").replace("_", " "),
            "tokens": line[name],
        }
        for line in by_model
        for name in TOKEN_COLUMNS
        if line[name]
    ]
    return tokens_by_model(lines) if lines else None


def _failures(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add up the failures of all days by error type and model, the most frequent first."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines:
        key = (line["error_type"], line["model"] or "unknown")
        into = sums.setdefault(
            key,
            {"error_type": key[0], "model": key[1], **dict.fromkeys(FAILURE_SUMS, 0), "cost_pico": 0},
        )
        for name in FAILURE_SUMS:
            into[name] += line[name]
        if None in (into["cost_pico"], line["cost_pico"]):
            into["cost_pico"] = None
        else:
            into["cost_pico"] += line["cost_pico"]
    return sorted(sums.values(), key=lambda line: (-line["attempts"], line["error_type"], line["model"]))


def _costly_row(line: Mapping[str, Any]) -> dict[str, Any]:
    prompt = " ".join((line["prompt"] or "").split())
    shown = prompt if len(prompt) <= MAX_PROMPT_LENGTH else prompt[: MAX_PROMPT_LENGTH - 1] + "…"
    return dict(line) | {"shown_prompt": shown}


def _compared_costs(line: Mapping[str, Any], drift: float) -> dict[str, Any]:
    reported, computed = line["cost_reported_pico"], line["cost_computed_pico"]
    difference = (computed - reported) / reported if reported else (1.0 if computed else 0.0)
    return dict(line) | {"difference": difference, "drifts": abs(difference) > drift}
