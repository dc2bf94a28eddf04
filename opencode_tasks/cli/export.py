"""``opencode-tasks export``."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from opencode_tasks.cli.help_text import Command
from opencode_tasks.cli.ledger_option import RUN_HELP, LedgerOption, named_run, open_existing
from opencode_tasks.cli.resume import AGAIN
from opencode_tasks.cli.terminal_text import without_controls
from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.errors import InputError

if TYPE_CHECKING:
    from opencode_tasks.engine.record_export import RecordFormat


class Format(StrEnum):
    """Formats of the output."""

    table = "table"
    swebench = "swebench"
    atif = "atif"
    sharegpt = "sharegpt"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", cls=Command)(export)


def export(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help=RUN_HELP)],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="File to write, as a path or fsspec URL. A table is a csv, tsv, jsonl, json, parquet, "
            "arrow, feather or xlsx file; the other formats are jsonl or json files.",
        ),
    ],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            show_default=False,
            help="table: OUTPUT of annotate. swebench: diffs as predictions for the harness of SWE-bench. "
            "atif: a trajectory of each row in the Agent Trajectory Interchange Format. sharegpt: "
            "conversations with tools for fine-tuning. Default: table.",
        ),
    ] = Format.table,
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
    its open rows have the status open. The other formats have the rows with an outcome, and lines on stderr
    name those that are left out. They are written as they are read, and FILE is replaced at the end.

    \b
    Examples:
      opencode-tasks export 20261127-143000-4e9a72 -o so-far.csv
      opencode-tasks export 20261127-143000-4e9a72 --format swebench -o predictions.jsonl
      opencode-tasks export 20261127-143000-4e9a72 --format atif -o trajectories.jsonl
    """  # noqa: D301  click reads the character \b
    if form is not Format.table:
        _export_records(run_id, output, form, ledger, needless=_given(source, protect_cells=protect_cells))
        return
    from opencode_tasks.engine.export import export_run
    from opencode_tasks.orchestration.block_resolver import resolve_database_url

    with open_existing(ledger) as opened:
        counts = export_run(
            opened,
            named_run(opened, run_id),
            output,
            database=resolve_database_url(None),
            source=source,
            protects_cells=protect_cells,
        )
    rows = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no rows"
    typer.echo(without_url_secrets(f"{rows} -> {output}"))


def _given(source: str | None, *, protect_cells: bool) -> list[str]:
    """The options of tables that were given."""
    return [*(["--input"] if source is not None else []), *(["--protect-cells"] if protect_cells else [])]


def _export_records(run_id: str, output: str, form: Format, ledger: str | None, needless: list[str]) -> None:
    from opencode_tasks.engine.record_export import NOUNS, export_records

    wanted = cast("RecordFormat", form.value)
    if needless:
        raise InputError((f"{needless[0]}: --format {wanted} reads no table; leave the option out",))
    with open_existing(ledger) as opened:
        done = export_records(opened, named_run(opened, run_id), output, wanted)
    for note in done.notes:
        typer.echo(without_controls(note), err=True)
    typer.echo(without_url_secrets(f"{done.records} {NOUNS[wanted]} -> {output}"))
