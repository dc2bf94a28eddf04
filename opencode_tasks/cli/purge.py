"""``opencode-tasks purge``."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Annotated

import typer

from opencode_tasks.cli.help_text import Command
from opencode_tasks.cli.ledger_option import LedgerOption, open_existing
from opencode_tasks.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("purge", cls=Command)(purge)


def purge(
    before: Annotated[
        str,
        typer.Option(metavar="DATE", help="Purge runs that ended before this UTC day, such as 2026-11-01."),
    ],
    texts_only: Annotated[bool, typer.Option("--texts-only", help="Keep the ids of rows.")] = False,
    ledger: LedgerOption = None,
) -> None:
    """Remove prompts, answers and traces of old runs; costs stay.

    Messages of providers and the options of the runs are removed too. Without --texts-only the ids of
    rows are replaced by their numbers, since an id can identify a person. Labels stay, because reports
    group costs by them. Runs that can be resumed are not purged. Later runs cannot reuse a purged answer:
    its row would be sent again.

    \b
    Example:
      opencode-tasks purge --before 2026-11-01
    """  # noqa: D301  click reads the character \b
    try:
        day = date.fromisoformat(before)
    except ValueError:
        raise InputError((f"--before: {before!r} is not a day like 2026-11-01",)) from None
    with open_existing(ledger) as opened:
        first_kept = datetime.combine(day, time.min, UTC)
        purged = opened.retention.purge(first_kept, texts_only=texts_only, now=datetime.now(UTC))
    runs = "1 run" if purged.runs == 1 else f"{purged.runs} runs"
    typer.echo(f"{runs} with {purged.rows} rows purged")
