"""A report's files and what Prefect shows of it: the body of ``cost_report``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.errors import InputError
from opencode_tasks.frames.write import encoded, write_bytes
from opencode_tasks.ledger import Grouping, Ledger, ReportQueries, is_there, shown_url
from opencode_tasks.orchestration.block_urls import ledger_place
from opencode_tasks.reports.focus import focus_csv
from opencode_tasks.reports.lines import group_columns, lines_frame, read_since, report_lines
from opencode_tasks.reports.page import report_page
from opencode_tasks.settings import settings

NAME = "cost-report"
KEY = "opencode-cost-report"


def write_reports(
    output: str, *, ledger: str | None, by: Sequence[Grouping], since: str | None, link: str | None
) -> dict[str, Any]:
    """Write the files, leave the artifacts; see ``cost_report``."""
    now = datetime.now(UTC)
    first = read_since(since, now.date())
    url = ledger_place(ledger)
    if not is_there(url):
        raise InputError((f"ledger: there is no ledger {url} yet",))
    folder = _folder(output)
    with Ledger.open(url) as opened:
        report_queries = opened.reports
        source = shown_url(opened.url)
        page = report_page(report_queries, since=first, now=now, source=source, drift=settings().cost_drift)
        lines = report_lines(report_queries, by, since=first)
        charges = "".join(focus_csv(report_queries.charges(since=first)))
        totals = report_lines(report_queries, (), since=first)[0]
        failed = _failed(report_queries, first)
    files = {
        f"{NAME}.html": page.encode(),
        f"{NAME}.csv": encoded(lines_frame(lines, by), "csv"),
        f"{NAME}-focus.csv": charges.encode("utf-8", "backslashreplace"),
    }
    for name, content in files.items():
        write_bytes(content, folder + name)
    place = link or _address(folder + f"{NAME}.html")
    create_table_artifact(lines, key=f"{KEY}-table", description=f"Cost by {', '.join(by) or 'all'}")
    create_markdown_artifact(_summary(totals, failed, first, now, place), key=KEY)
    create_link_artifact(place, key=f"{KEY}-page", link_text="The cost report")
    return {"files": [folder + name for name in files], **totals}


def _folder(output: str) -> str:
    """The place of the files, with its last slash; a local folder is made."""
    if "://" in output:
        return output.rstrip("/") + "/"
    path = Path(output).absolute()
    path.mkdir(parents=True, exist_ok=True)
    return f"{path}/"


def _address(place: str) -> str:
    return place if "://" in place else Path(place).as_uri()


def _failed(report_queries: ReportQueries, since: date | None) -> dict[str, int]:
    """Attempts by the error that they ended in."""
    found: dict[str, int] = {}
    for line in report_queries.failures(since=since):
        found[line["error_type"]] = found.get(line["error_type"], 0) + line["attempts"]
    return found


def _summary(
    totals: Mapping[str, Any], failed: Mapping[str, int], since: date | None, now: datetime, place: str
) -> str:
    """Markdown of the totals."""
    names = [*group_columns(()), "rows", "steps"]
    unknown = "" if totals["cost_usd"] is not None else " and an unknown part"
    counted = "\n".join(f"| {name} | {totals[name]:,} |" for name in names)
    errors = ", ".join(f"{count} {kind}" for kind, count in sorted(failed.items())) or "none"
    return f"""# What opencode-tasks spent

From {since or "the beginning"} to {now:%Y-%m-%d %H:%M} UTC: **{_usd(totals["known_cost_usd"])}**{unknown}.

| what | |
|---|---|
{counted}
| in attempts that did not complete | {_usd(totals["failed_cost_usd"])} |

Attempts that failed: {errors}.

[The whole report]({place})
"""


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else format_usd(usd_to_pico(amount))
