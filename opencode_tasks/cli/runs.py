"""``opencode-tasks runs`` and ``show``: the runs, rows and attempts of the ledger."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opencode_tasks.cli.command_options import declared
from opencode_tasks.cli.help_text import Command
from opencode_tasks.cli.ledger_option import RUN_HELP, LedgerOption, named_run, open_existing
from opencode_tasks.cli.terminal_text import without_controls
from opencode_tasks.domain.json_values import mapping_in, text_in
from opencode_tasks.domain.money import format_usd
from opencode_tasks.domain.text import no_row, no_run
from opencode_tasks.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from opencode_tasks.ledger import Ledger

# Width of a table in a pipe, which has none.
PIPE_WIDTH = 200
# Only --json shows these: they identify a row or an attempt in the ledger, or are reservations and leases.
INTERNAL = frozenset(
    {
        *(
            "attempt_id",
            "ended_fence",
            "exit_code",
            "fence",
            "gate_id",
            "lost_at",
            "max_call_pico",
            "node_id",
        ),
        *("owner", "position", "reserved_pico", "row_key", "usage_known"),
    }
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("runs", cls=Command)(runs)
    app.command("show", cls=Command)(show)


def runs(
    ledger: LedgerOption = None,
    limit: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", show_default=False, help="Number of runs, newest first. Default: 20."
        ),
    ] = 20,
    as_json: Annotated[bool, declared("as_json", help_text="Print a JSON list.")] = False,
) -> None:
    """List the newest runs with their rows and cost.

    \b
    Examples:
      opencode-tasks runs
      opencode-tasks runs --limit 5 --json
    """  # noqa: D301  click reads the character \b
    with open_existing(ledger) as opened:
        found = _with_drivers(opened, opened.runs.newest(limit=min(limit, sys.maxsize)))
    if as_json:
        typer.echo(json.dumps(found, default=str, indent=2))
        return
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=PIPE_WIDTH)).print(_table(found))


def _with_drivers(ledger: Ledger, runs_found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs, each with its ``drivers``: the processes that worked on it, in the order of their starts."""
    from opencode_tasks.engine.driver import listed_drivers

    drivers = listed_drivers(ledger, [run["run_id"] for run in runs_found])
    return [
        {**run, "drivers": [one for one in drivers if one["run_id"] == run["run_id"]]} for run in runs_found
    ]


def _table(runs_found: list[dict[str, Any]]) -> Table:
    """The runs; where the terminal is narrow, models and tables are cut and ids are whole."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from opencode_tasks.ledger import models_in

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("run_id", "status"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "failed", "reused", "cost"):
        table.add_column(name, no_wrap=True, justify="right")
    for name in ("model", "input"):
        table.add_column(name, overflow="ellipsis")
    for run in runs_found:
        cells = [
            *(run["run_id"], run["status"]),
            f"{run['total'] - run['open']}/{run['total']}" if run["open"] else str(run["total"]),
            *(str(run[name]) for name in ("failed", "reused")),
            format_usd(run["cost_pico"]),
            run["model_ref"] or ", ".join(models_in(run["parameters"])) or "-",
            _input(run["parameters"]),
        ]
        table.add_row(*(Text(without_controls(cell)) for cell in cells))
    return table


def _input(parameters: Mapping[str, Any]) -> str:
    """The name of the INPUT of a run; "-" if its rows came from Python."""
    source = text_in(mapping_in(parameters.get("command")).get("input")) or "-"
    return source if source.startswith("sql:") else source.rstrip("/").rpartition("/")[2]


def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help=RUN_HELP)],
    row_id: Annotated[
        str | None, typer.Argument(metavar="ROW_ID", help="Row of the run, with its attempts and trace.")
    ] = None,
    ledger: LedgerOption = None,
    as_json: Annotated[bool, declared("as_json", help_text="Print one JSON object.")] = False,
) -> None:
    """Show a run with its quality, or a row with its attempts, errors, usage (repairs are marked) and trace.

    Of a row with a workspace, the tools, the check, the artifacts and the beginning of the diff are shown;
    --json has the whole diff, and the fields that are internal to the ledger.

    \b
    Examples:
      opencode-tasks show 20261127-143000-4e9a72
      opencode-tasks show 20261127-143000-4e9a72 r17
    """  # noqa: D301  click reads the character \b
    lines: list[str] = []
    with open_existing(ledger) as opened:
        run_id = named_run(opened, run_id)
        found = _run(opened, run_id) if row_id is None else opened.results.row(run_id, row_id)
        if found is None:
            is_run_there = opened.runs.status(run_id) is not None
            raise InputError(
                (no_row(run_id, row_id) if row_id is not None and is_run_there else no_run(run_id),)
            )
        if row_id is not None:
            _add_system_text(opened, found["row"])
        if row_id is None and not as_json:
            from opencode_tasks.cli.run_text import run_lines

            lines = [*run_lines(opened, found)]
    if row_id is not None:
        _mark_repairs(found)
        _hide_secrets(found)
    if as_json:
        typer.echo(json.dumps(found, default=str, indent=2))
    elif row_id is None:
        typer.echo("\n".join(lines))
    else:
        _print_row(found)


def _run(ledger: Ledger, run_id: str) -> dict[str, Any] | None:
    run = ledger.runs.get(run_id)
    if run is None:
        return None
    parts = [
        {"part": one.part, "run_id": one.run_id, "status": one.status, "title": one.title}
        for one in ledger.votes.parts(run_id)
    ]
    return {**_with_drivers(ledger, [run])[0], "parts": parts}


def _add_system_text(ledger: Ledger, row: dict[str, Any]) -> None:
    """Set the system text of a row that has that of its run."""
    from opencode_tasks.ledger import system_text_in

    run = ledger.row_list.run(row["run_id"])
    if row["system"] is None and run is not None:
        row["system"] = system_text_in(run["parameters"])


def _hide_secrets(found: dict[str, Any]) -> None:
    from opencode_tasks.engine.shown_files import without_secrets

    found["row"]["files"] = without_secrets(found["row"])


def _mark_repairs(found: dict[str, Any]) -> None:
    """Set ``is_repair`` of each step: whether it answers a request for a corrected answer."""
    from opencode_tasks.outcomes.session_messages import repair_ids

    repairs = {key for session in found["sessions"] for key in repair_ids(session["messages"] or [])}
    for step in found["usage"]:
        step["is_repair"] = step["message_id"] in repairs


def _print_row(found: dict[str, Any]) -> None:
    from opencode_tasks.cli.work_text import print_work
    from opencode_tasks.domain.columns import WORK_COLUMNS
    from opencode_tasks.engine.shown_files import file_facts, stored_files
    from opencode_tasks.outcomes.trace import render_trace

    row = found["row"]
    shown_below = {"files", *(column.ledger_name for column in WORK_COLUMNS)}
    _print_fields({name: value for name, value in row.items() if name not in shown_below})
    files = file_facts(stored_files(row))
    for line in ["\n--- files", *(f"{name}: {text}" for name, text in files)] if files else []:
        typer.echo(without_controls(line))
    print_work(row)
    for vote in found["votes"]:
        typer.echo(f"\n--- {vote['title']}: {vote['status']}, run {vote['run_id']}")
        names = ("response", "structured", "error_type", "error_message", "model_ref", "cost_pico", "reused")
        _print_fields({name: vote[name] for name in names})
    for attempt in found["attempts"]:
        typer.echo(f"\n--- attempt {attempt['attempt']}: {attempt['status']}{_beginning(attempt)}")
        in_title = ("run_id", "row_id", "attempt", "status")
        _print_fields({name: value for name, value in attempt.items() if name not in in_title})
    for step in found["usage"]:
        tokens = f"{step['input_tokens']} in, {step['output_tokens']} out"
        cost = format_usd(step["cost_pico"])
        repair = ", repair" if step["is_repair"] else ""
        typer.echo(f"\n--- step {step['step_id']}: {step['model_ref']}, {tokens}, {cost}{repair}")
    for session in found["sessions"]:
        trace = without_controls(render_trace(session["messages"] or []))
        before = "" if row["answered_by"] is None else f" before the answer of {row['answered_by']}"
        title = without_controls(f"answer of the model{before}, session {session['session_id']}")
        typer.echo(f"\n--- {title}\n{trace}")


def _beginning(attempt: dict[str, Any]) -> str:
    """How an attempt after the first one began, if that is known."""
    if attempt["continues"] is not None:
        return f", continued the session of attempt {attempt['continues']}"
    return "" if attempt["begins_anew"] is None else f", began anew: {attempt['begins_anew']}"


def _print_fields(fields: dict[str, Any]) -> None:
    """Print the fields that have a value and are of interest to a user."""
    for name, value in fields.items():
        if value is None or value == {} or name in INTERNAL:
            continue
        shown = format_usd(value) if name.endswith("_pico") else value
        typer.echo(f"{name.removesuffix('_pico'):<18} {without_controls(str(shown))}")
