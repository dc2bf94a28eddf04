"""A report as one page for people: everything in it, no script, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from importlib.metadata import version
from typing import Any, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from opencode_tasks.domain.money import format_usd, pico_to_usd
from opencode_tasks.domain.records import TOKEN_COLUMNS, CostSource
from opencode_tasks.ledger import Grouping, ReportQueries
from opencode_tasks.reports import charts

DEAREST = 15
PROMPT_LENGTH = 160
MAX_LINES = 50
FAILURE_SUMS = ("attempts", "failed_rows", "known_cost_pico")
RECENT_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing in each width, by its name."""

    drawn: Mapping[str, Markup]


def report_page(
    report_queries: ReportQueries, *, since: date | None, now: datetime, source: str, drift: float
) -> str:
    """The HTML of a report over the ledger ``source`` (a URL without its password).

    ``since`` None is from the first day on. ``drift`` is the part of a model's reported cost by which
    the computed one may differ before the page says so.
    """
    with report_queries.frozen() as frozen:
        told = _told(frozen, since, now.date(), drift)
    return (
        _environment()
        .get_template("page.html")
        .render(told, version=version("opencode-tasks"), made_at=now, source=source, most_lines=MAX_LINES)
    )


def _told(report_queries: ReportQueries, since: date | None, today: date, drift: float) -> dict[str, Any]:
    """What the page shows."""
    by_model = report_queries.spent(("model",), since=since)
    days = report_queries.spent(("day", "model"))
    sources = report_queries.sources(since=since)
    return {
        "period": _period(days, since, today),
        "totals": report_queries.spent(since=since)[0],
        "statuses": report_queries.rows_by_status(since=since),
        "compared_periods": _compared_periods(days, since, today),
        "over_time": _over_time([line for line in days if since is None or line["day"] >= since]),
        "groups": _groups(report_queries, by_model, since),
        "tokens": _tokens(by_model),
        "failures": _failures(report_queries.failures(since=since)),
        "dearest": [_dear(line) for line in report_queries.costliest(DEAREST, since=since)],
        "sources": {name: sum(line[name] for line in sources) for name in get_args(CostSource)},
        "compared": [_compared(line, drift) for line in sources if line["both"]],
        "unreported": report_queries.unreported(since=since),
    }


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("opencode_tasks.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"usd": format_usd, "count": _count, "share": _share}
    return made


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _share(value: float) -> str:
    return f"{value:+.1%}"


def _period(days: Sequence[Mapping[str, Any]], since: date | None, today: date) -> tuple[date, date]:
    known = [line["day"] for line in days] or [today]
    return since or min(known), max(today, *known)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPeriods:
    """What two periods of the same length cost, in pico-dollars: the known parts."""

    days: int
    cost_pico: int
    before_pico: int

    @property
    def change(self) -> float | None:
        """The change as a part of the period before; None where that cost nothing."""
        return (self.cost_pico - self.before_pico) / self.before_pico if self.before_pico else None


def _compared_periods(lines: Sequence[Mapping[str, Any]], since: date | None, today: date) -> ComparedPeriods:
    days = RECENT_DAYS if since is None else max(1, (today - since).days + 1)
    first = today - timedelta(days=days - 1)
    before = first - timedelta(days=days)
    return ComparedPeriods(
        days=days,
        cost_pico=sum(line["known_cost_pico"] for line in lines if first <= line["day"]),
        before_pico=sum(line["known_cost_pico"] for line in lines if before <= line["day"] < first),
    )


def _drawn(draw: Any, lines: Sequence[Mapping[str, Any]]) -> Chart | None:
    if not lines:
        return None
    # What of the data is in a drawing was escaped where it was drawn.
    return Chart(drawn={name: Markup(draw(lines, size)) for name, size in charts.SIZES.items()})  # noqa: S704


def _over_time(lines: Sequence[Mapping[str, Any]]) -> Chart | None:
    spent = [
        {
            "day": line["day"].isoformat(),
            "model": line["model"] or "unknown",
            "usd": pico_to_usd(line["known_cost_pico"]),
        }
        for line in lines
        if line["known_cost_pico"]
    ]
    return _drawn(charts.over_time, spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Spending by one grouping: a drawing, and its lines with ``name``, dearest first."""

    title: str
    heading: str
    chart: Chart | None
    lines: Sequence[Mapping[str, Any]]


def _groups(
    report_queries: ReportQueries, by_model: Sequence[Mapping[str, Any]], since: date | None
) -> list[Group]:
    deployments = report_queries.spent(("deployment",), since=since)
    groups = [_group("By model", "model", by_model), _group("By deployment", "deployment", deployments)]
    by: tuple[Grouping, ...] = ("label",)
    labels: dict[str, list[Mapping[str, Any]]] = {}
    for line in report_queries.spent(by, since=since):
        labels.setdefault(line["label"], []).append(line)
    return groups + [_group(f"By label {name}", "label_value", lines, name) for name, lines in labels.items()]


def _group(title: str, column: str, lines: Sequence[Mapping[str, Any]], heading: str = "") -> Group:
    absent = "run by hand" if column == "deployment" else "unknown"
    named: list[dict[str, Any]] = [dict(line) | {"name": line[column] or absent} for line in lines]
    named.sort(key=lambda line: -line["known_cost_pico"])
    spent = [
        {"name": line["name"], "usd": pico_to_usd(line["known_cost_pico"])}
        for line in named
        if line["known_cost_pico"]
    ]
    # A single bar tells no more than its number.
    chart = _drawn(charts.bars, spent) if len(spent) > 1 else None
    return Group(title=title, heading=heading or column, chart=chart, lines=named)


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
    return _drawn(charts.tokens, lines)


def _failures(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The failures of all days, by error and model, the most frequent first."""
    added: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines:
        key = (line["error_type"], line["model"] or "unknown")
        into = added.setdefault(
            key,
            {"error_type": key[0], "model": key[1], **dict.fromkeys(FAILURE_SUMS, 0), "cost_pico": 0},
        )
        for name in FAILURE_SUMS:
            into[name] += line[name]
        if None in (into["cost_pico"], line["cost_pico"]):
            into["cost_pico"] = None
        else:
            into["cost_pico"] += line["cost_pico"]
    return sorted(added.values(), key=lambda line: (-line["attempts"], line["error_type"], line["model"]))


def _dear(line: Mapping[str, Any]) -> dict[str, Any]:
    prompt = " ".join((line["prompt"] or "").split())
    shown = prompt if len(prompt) <= PROMPT_LENGTH else prompt[: PROMPT_LENGTH - 1] + "…"
    return dict(line) | {"shown_prompt": shown}


def _compared(line: Mapping[str, Any], drift: float) -> dict[str, Any]:
    reported, computed = line["cost_reported_pico"], line["cost_computed_pico"]
    difference = (computed - reported) / reported if reported else (1.0 if computed else 0.0)
    return dict(line) | {"difference": difference, "drifts": abs(difference) > drift}
