"""``opencode-tasks export``."""

from __future__ import annotations

from typing import Annotated

import typer

from opencode_tasks.cli.help_text import Command
from opencode_tasks.cli.ledger_option import LedgerOption, open_existing
from opencode_tasks.cli.resume import AGAIN
from opencode_tasks.domain.url_secrets import without_url_secrets


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", cls=Command)(export)


def export(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="Run (see: opencode-tasks runs).")],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Table to write: a csv, tsv, jsonl, json, parquet, arrow, feather or xlsx file, as a path "
            "or fsspec URL.",
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option("--input", metavar="URL", help=AGAIN.format("INPUT")),
    ] = None,
    protect_cells: Annotated[
        bool,
        typer.Option(
            "--protect-cells",
            help="Put an apostrophe before each cell of a csv or tsv file that a spreadsheet would run as a "
            "formula. For people: as INPUT, the file has other values.",
        ),
    ] = False,
    ledger: LedgerOption = None,
) -> None:
    """Write the rows of a run, finished or not, to a file.

    The table is that of OUTPUT of annotate. A run can be exported while it runs, sleeps or is suspended:
    its open rows have the status open.

    \b
    Example:
      opencode-tasks export 20261127-143000-4e9a72 -o so-far.csv
    """  # noqa: D301  click reads the character \b
    from opencode_tasks.engine.export import export_run
    from opencode_tasks.orchestration.block_resolver import resolve_database_url

    with open_existing(ledger) as opened:
        counts = export_run(
            opened,
            run_id,
            output,
            database=resolve_database_url(None),
            source=source,
            protects_cells=protect_cells,
        )
    rows = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no rows"
    typer.echo(without_url_secrets(f"{rows} -> {output}"))
