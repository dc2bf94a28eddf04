"""``opencode-tasks report``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opencode_tasks.cli.help_text import Command
from opencode_tasks.cli.html_option import HtmlOption, check_folders, write_page
from opencode_tasks.cli.ledger_option import LedgerOption, open_existing
from opencode_tasks.cli.runs import PIPE_WIDTH
from opencode_tasks.cli.terminal_text import without_controls
from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table


# Shown if they are not 0.
RARE = frozenset({"cache_read_tokens", "cache_write_tokens", "reasoning_tokens"})


class Format(StrEnum):
    """Formats of the lines."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"
    focus = "focus"


class By(StrEnum):
    """Columns by which lines can be grouped."""

    day = "day"
    model = "model"
    deployment = "deployment"
    run = "run"
    label = "label"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", cls=Command)(report)


def report(
    ledger: LedgerOption = None,
    by: Annotated[
        list[By] | None,
        typer.Option(
            "--by",
            metavar="|".join(By),
            help="Group the lines by this column. Repeatable. Default: one line for all runs.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="First UTC day: 2026-11-01, or 30d for the last 30 days. Default: the whole ledger.",
        ),
    ] = None,
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            show_default=False,
            help="Format of the lines; focus is a csv table of FOCUS 1.2 with a charge for each model call. "
            "Default: table.",
        ),
    ] = Format.table,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write. Default: standard output."),
    ] = None,
    tools: Annotated[
        bool,
        typer.Option(
            "--tools",
            help="Report the rows whose agent called tools instead: their cost, model calls and checks, and "
            "each tool. As a table or json.",
        ),
    ] = False,
    html: HtmlOption = None,
    import_session: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Import the output of `opencode export` into the ledger first, marked as imported. "
            "Repeatable.",
        ),
    ] = None,
) -> None:
    """Report rows, tokens and cost of the runs in the ledger.

    Failed attempts and sub-agents are included. Costs are in USD, days are UTC. An unknown value is empty
    (null in JSON), never 0; known_cost_usd is the sum of the known parts. failed_cost_usd is the cost of
    attempts that did not complete. A line on stderr says what attempts without complete usage, such as
    those that were cut short, may have cost in addition. With --by label a row counts under each of its
    labels (see annotate --label).

    \b
    Examples:
      opencode-tasks report --by day --by model
      opencode-tasks report --since 30d --by label --format csv -o costs.csv --html costs.html
      opencode-tasks report --tools
    """  # noqa: D301  click reads the character \b
    from opencode_tasks.reports.cost_lines import read_since

    first = read_since(since, datetime.now(UTC).date())
    groups = list(dict.fromkeys(one.value for one in by or []))
    if form is Format.parquet and output is None and sys.stdout.isatty():
        raise InputError(("--format parquet: a terminal cannot show it; name a file with -o FILE",))
    if tools and (groups or form not in (Format.table, Format.json)):
        given = "--by" if groups else f"--format {form.value}"
        raise InputError((f"--tools: {given} does not fit; use --format table or json without --by",))
    check_folders(output, html)
    if import_session:
        _import(import_session, ledger)
    with open_existing(ledger) as opened:
        report_queries = opened.reports
        if html is not None:
            _write_page(report_queries, first, html, opened.url)
        content = (
            _tool_content(report_queries, first, form)
            if tools
            else _content(report_queries, groups, first, form)
        )
        _say_unreported(report_queries.unreported(since=first))
    if output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        return
    from opencode_tasks.frames.write_file import write_bytes

    write_bytes(content, output)
    typer.echo(f"-> {output}", err=True)


def _say_unreported(attempts: Sequence[Mapping[str, Any]]) -> None:
    """Say what attempts without complete usage may have cost beyond the lines of the report."""
    if not attempts:
        return
    bounds = [one["at_most_pico"] for one in attempts]
    more = f"may have cost up to {format_usd(sum(bounds))} more"
    unbounded = ", and those of models without a price any amount" if 0 in bounds else ""
    count = f"{len(bounds):,} attempt{'s' if len(bounds) > 1 else ''} without complete usage"
    typer.echo(f"{count} {more}{unbounded} (report --html FILE lists them)", err=True)


def _import(files: Sequence[Path], ledger: str | None) -> None:
    from opencode_tasks.orchestration.block_resolver import resolve_ledger_url
    from opencode_tasks.plan.own_prices import own_prices
    from opencode_tasks.reports.import_sessions import import_sessions

    prices, faults = own_prices()
    if faults:
        raise InputError(tuple(faults))
    for line in import_sessions(files, resolve_ledger_url(ledger), prices):
        typer.echo(line, err=True)


def _write_page(report_queries: Any, since: date | None, target: str, url: str) -> None:
    from opencode_tasks.ledger import shown_url
    from opencode_tasks.reports.page import report_page
    from opencode_tasks.settings import settings

    page = report_page(
        report_queries, since=since, now=datetime.now(UTC), source=shown_url(url), drift=settings().cost_drift
    )
    write_page(page, target)


def _content(report_queries: Any, by: list[Any], since: date | None, form: Format) -> bytes:
    if form is Format.focus:
        from opencode_tasks.reports.focus import focus_csv

        return "".join(focus_csv(report_queries.charges(since=since))).encode("utf-8", "backslashreplace")
    from opencode_tasks.reports.cost_lines import lines_frame, report_lines

    lines = report_lines(report_queries, by, since=since)
    if form is Format.json:
        return f"{json.dumps(lines, indent=2)}\n".encode()
    if form is Format.table:
        return _table(lines, by).encode()
    from opencode_tasks.frames.csv_file import protected
    from opencode_tasks.frames.write_file import encoded

    frame = lines_frame(lines, by)
    return encoded(frame, "parquet") if form is Format.parquet else encoded(protected(frame), "csv")


def _tool_content(report_queries: Any, since: date | None, form: Format) -> bytes:
    from opencode_tasks.reports.tool_use import read_tool_use, tool_use_json

    use = read_tool_use(report_queries, since)
    if form is Format.json:
        return f"{json.dumps(tool_use_json(use), indent=2)}\n".encode()
    return _tool_table(use).encode()


def _tool_table(use: Any) -> str:
    from rich.table import Table
    from rich.text import Text

    if not use.rows:
        return "no row whose agent called a tool\n"
    cost = format_usd(use.known_cost_pico) + (" + unknown" if use.cost_pico is None else "")
    rows = "1 row" if use.rows == 1 else f"{use.rows:,} rows"
    lines = [f"{rows} with tools, {cost}, {use.steps_per_row:.1f} model calls a row"]
    if use.checked_rows:
        lines.append(f"check passed: {use.passed_rows:,} of {use.checked_rows:,} ({use.passed_share:.1%})")
    table = Table()
    table.add_column("tool", overflow="fold")
    for title in ("called by rows", "denied to rows"):
        table.add_column(title, justify="right")
    for one in use.tools:
        table.add_row(Text(without_controls(one.name)), f"{one.rows:,}", f"{one.denied_rows:,}")
    return "\n".join([*lines, _printed(table)])


def _table(lines: list[dict[str, Any]], by: list[Any]) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from opencode_tasks.reports.cost_lines import group_columns

    names = group_columns(by)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        # An id is used in other commands, and must be whole.
        table.add_column(name.replace("_", " "), overflow="fold", no_wrap=name == "run")
    counts = [name for name in (lines[0] if lines else {}) if name not in names and not name.endswith("_usd")]
    counts = [name for name in counts if name not in RARE or any(line[name] != 0 for line in lines)]
    titles = [{"steps": "calls"}.get(name, name.removesuffix("_tokens")).replace("_", " ") for name in counts]
    for title in (*titles, "cost", "cost of failures"):
        # A number that is cut looks like another one.
        table.add_column(title, justify="right", overflow="fold")
    for line in lines:
        cells = [Text(without_controls(_name(line[name]))) for name in names]
        cells += [Text("unknown" if line[name] is None else f"{line[name]:,}") for name in counts]
        cost = _usd(line["known_cost_usd"]) + (" + unknown" if line["cost_usd"] is None else "")
        table.add_row(*cells, Text(cost), Text(_usd(line["failed_cost_usd"])))
    return _printed(table)


def _printed(table: Table) -> str:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def _name(value: Any) -> str:
    return "-" if value is None else str(value)


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else format_usd(usd_to_pico(amount))
