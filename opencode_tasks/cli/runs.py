"""``opencode-tasks runs`` and ``show``: what the ledger tells."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from opencode_tasks.cli.ledger_option import LedgerOption, open_existing
from opencode_tasks.domain.money import format_usd
from opencode_tasks.errors import InputError
from opencode_tasks.outcomes.trace import render_trace

PIPE_WIDTH = 200


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("runs")(runs)
    app.command("show")(show)


def runs(
    ledger: LedgerOption = None,
    limit: Annotated[int, typer.Option(min=1, help="How many runs, newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the runs of the ledger, newest first, with their rows and cost."""
    with open_existing(ledger) as opened:
        found = opened.runs.newest(limit=limit)
    if as_json:
        typer.echo(json.dumps(found, default=str, indent=2))
        return
    table = Table(
        "run_id", "started (UTC)", "status", "model", "rows", "completed", "failed", "reused", "cost"
    )
    for run in found:
        cells = [
            *(
                run["run_id"],
                f"{run['created_at']:%Y-%m-%d %H:%M:%S}",
                run["status"],
                run["model_ref"] or "-",
            ),
            *(str(run[name]) for name in ("total", "completed", "failed", "reused")),
            format_usd(run["cost_pico"]),
        ]
        table.add_row(*(Text(cell) for cell in cells))
    console = Console()
    # Not on a terminal there is no width to keep to.
    (console if console.is_terminal else Console(width=PIPE_WIDTH)).print(table)


def show(
    run_id: Annotated[str, typer.Argument(help="The run.")],
    row_id: Annotated[str | None, typer.Argument(help="A row of it, for its whole story.")] = None,
    ledger: LedgerOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a run, or one row's whole story: its attempts, their errors, usage and trace."""
    with open_existing(ledger) as opened:
        found = opened.runs.get(run_id) if row_id is None else opened.results.row(run_id, row_id)
        if found is None:
            what = f"no run {run_id}" if row_id is None else f"no row {row_id!r} in a run {run_id}"
            raise InputError((f"RUN_ID: there is {what} in this ledger (see: opencode-tasks runs)",))
    if as_json:
        typer.echo(json.dumps(found, default=str, indent=2))
    elif row_id is None:
        _print_fields(found)
    else:
        _print_story(found)


def _print_story(story: dict[str, Any]) -> None:
    _print_fields(story["row"])
    for attempt in story["attempts"]:
        typer.echo(f"\n--- attempt {attempt['attempt']}: {attempt['status']}")
        _print_fields(
            {k: v for k, v in attempt.items() if v is not None and k not in ("run_id", "row_id", "row_key")}
        )
    for step in story["usage"]:
        tokens = f"{step['input_tokens']} in, {step['output_tokens']} out"
        typer.echo(
            f"\n--- step {step['step_id']}: {step['model_ref']}, {tokens}, {format_usd(step['cost_pico'])}"
        )
    for session in story["sessions"]:
        typer.echo(f"\n--- session {session['session_id']}\n{render_trace(session['messages'] or [])}")


def _print_fields(fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        shown = format_usd(value) if name.endswith("_pico") else value
        label = name.removesuffix("_pico") if name.endswith("_pico") else name
        typer.echo(f"{label:<18} {'' if shown is None else shown}")
