"""``cost_report``: the cost of a ledger's runs as files and artifacts, as one deployable flow."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact, acreate_table_artifact

from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.errors import InputError
from opencode_tasks.frames.csv_file import protected
from opencode_tasks.frames.write_file import encoded, write_bytes
from opencode_tasks.ledger import Grouping, Ledger, ReportQueries, is_there, shown_url
from opencode_tasks.ledger.column_types import storable
from opencode_tasks.orchestration.block_resolver import resolve_ledger_url
from opencode_tasks.orchestration.blocking_calls import call_blocking
from opencode_tasks.orchestration.run_log import errors_in_one_line
from opencode_tasks.outcomes.message_cleanup import one_line
from opencode_tasks.reports.cost_lines import group_columns, lines_frame, read_since, report_lines
from opencode_tasks.reports.focus import focus_csv
from opencode_tasks.reports.page import report_page
from opencode_tasks.settings import settings

NAME = "cost-report"
KEY = "opencode-cost-report"


@flow(name="cost-report", log_prints=False, persist_result=False)
def cost_report(
    output: str = ".",
    *,
    ledger: str | None = None,
    by: Sequence[Grouping] = ("model",),
    since: str | None = None,
    link: str | None = None,
) -> dict[str, Any]:
    """Write ``cost-report.html``, ``cost-report.csv`` and ``cost-report-focus.csv`` into a folder.

    The flow run stores a table, a Markdown summary and a link as artifacts.

    Args:
        output: Folder of the files: a path, which is created, or an fsspec URL.
        ledger: Ledger to read, as a path or a URL; None for OPENCODE_TASKS_LEDGER or the user's ledger.
        by: Columns by which the lines are grouped: day, model, deployment, run, label.
        since: First day as ``YYYY-MM-DD``, or ``7d`` for the last seven days; None for all days.
        link: URL at which people open the page; None for its path.

    Returns:
        The ``files`` and the totals of the report: rows, tokens and costs in US dollars.

    Raises:
        InputError: If the ledger does not exist, ``since`` is invalid, or ``output`` cannot be written.

    Examples:
        >>> import pandas as pd
        >>> from opencode_tasks import annotate, cost_report
        >>> frame = pd.DataFrame({"prompt": ["one", "two"]})
        >>> _ = annotate(frame, backend="null", ledger="ledger.db")
        >>> report = cost_report("reports", ledger="ledger.db")
        >>> [file.rpartition("/")[2] for file in report["files"]]
        ['cost-report.html', 'cost-report.csv', 'cost-report-focus.csv']
        >>> report["rows"]
        2
    """
    with errors_in_one_line():
        return _write_reports(output, ledger=ledger, by=tuple(by), since=since, link=link)


def _write_reports(
    output: str, *, ledger: str | None, by: Sequence[Grouping], since: str | None, link: str | None
) -> dict[str, Any]:
    now = datetime.now(UTC)
    first_day = read_since(since, now.date())
    url = resolve_ledger_url(ledger)
    if not is_there(url):
        raise InputError((f"ledger: there is no ledger {url} yet",))
    with _refused(output):
        folder = _folder(output)
    with Ledger.open(url) as opened:
        queries = opened.reports
        source = shown_url(opened.url)
        page = report_page(queries, since=first_day, now=now, source=source, drift=settings().cost_drift)
        lines = report_lines(queries, by, since=first_day)
        charges = "".join(focus_csv(queries.charges(since=first_day)))
        totals = report_lines(queries, (), since=first_day)[0]
        failed = _failed_attempts(queries, first_day)
    files = {
        # Names may contain lone surrogates, which UTF-8 does not have.
        f"{NAME}.html": storable(page).encode(),
        f"{NAME}.csv": encoded(protected(lines_frame(lines, by)), "csv"),
        f"{NAME}-focus.csv": charges.encode("utf-8", "backslashreplace"),
    }
    with _refused(output):
        for name, content in files.items():
            write_bytes(content, folder + name)
    page_url = link or _url_of(folder + f"{NAME}.html")
    columns = ", ".join(by) or "all"
    call_blocking(acreate_table_artifact, lines, key=f"{KEY}-table", description=f"Cost by {columns}")
    call_blocking(acreate_markdown_artifact, _summary(totals, failed, first_day, now, page_url), key=KEY)
    call_blocking(acreate_link_artifact, page_url, key=f"{KEY}-page", link_text="The cost report")
    return {"files": [folder + name for name in files], **totals}


@contextmanager
def _refused(output: str) -> Generator[None]:
    """Raise InputError with the reason if the files cannot be written into the folder ``output``."""
    try:
        yield
    # An fsspec file system raises exceptions of its library.
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        place = without_url_secrets(output)
        fault = f"output: the report cannot be written to {place}: {reason or one_line(str(error))}"
        raise InputError((fault,)) from error


def _folder(output: str) -> str:
    """Folder of the files, with a slash at its end; a local folder is created."""
    if "://" in output:
        return output.rstrip("/") + "/"
    path = Path(output).absolute()
    path.mkdir(parents=True, exist_ok=True)
    return f"{path}/"


def _url_of(file: str) -> str:
    return file if "://" in file else Path(file).as_uri()


def _failed_attempts(queries: ReportQueries, since: date | None) -> dict[str, int]:
    """Number of attempts by the error type in which they ended."""
    counts: dict[str, int] = {}
    for line in queries.failures(since=since):
        counts[line["error_type"]] = counts.get(line["error_type"], 0) + line["attempts"]
    return counts


def _summary(
    totals: Mapping[str, Any], failed: Mapping[str, int], since: date | None, now: datetime, page_url: str
) -> str:
    """Markdown of the totals."""
    names = [*group_columns(()), "rows", "steps"]
    unknown = "" if totals["cost_usd"] is not None else " and an unknown part"
    counted = "\n".join(f"| {name} | {totals[name]:,} |" for name in names)
    errors = ", ".join(f"{count} {kind}" for kind, count in sorted(failed.items())) or "none"
    return f"""# Cost of opencode-tasks

From {since or "the beginning"} to {now:%Y-%m-%d %H:%M} UTC: **{_usd(totals["known_cost_usd"])}**{unknown}.

| what | |
|---|---|
{counted}
| in attempts that did not complete | {_usd(totals["failed_cost_usd"])} |

Failed attempts: {errors}.

[The whole report]({page_url})
"""


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else format_usd(usd_to_pico(amount))
