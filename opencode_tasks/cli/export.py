"""``opencode-tasks export``: what a run has so far."""

from __future__ import annotations

from typing import Annotated

import typer

from opencode_tasks.cli.ledger_option import LedgerOption, open_existing


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    run_id: Annotated[str, typer.Argument(help="The run (see: opencode-tasks runs).")],
    output: Annotated[
        str, typer.Option("-o", "--output", help="Table to write: csv, jsonl or parquet; a path or URL.")
    ],
    ledger: LedgerOption = None,
) -> None:
    """Write what a run has so far: also while it goes on, sleeps or is suspended.

    The table is that of annotate's OUTPUT, with the rows that are still open in it.
    """
    from opencode_tasks.engine.export import export_run
    from opencode_tasks.orchestration.resolver import resolve_database_url

    with open_existing(ledger) as opened:
        counts = export_run(opened, run_id, output, database=resolve_database_url(None))
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no rows"
    typer.echo(f"{told} -> {output}")
