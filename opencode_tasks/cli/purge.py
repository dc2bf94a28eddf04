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
    """Remove prompts, answers, traces and kept files of old runs; costs stay.

    Messages of providers and the options of the runs are removed too. Without --texts-only the ids of
    rows are replaced by their numbers, since an id can identify a person. Labels stay, because reports
    group costs by them. Runs that can be resumed are not purged. Later runs cannot reuse a purged answer:
    its row would be sent again.

    Kept workspaces, and the diffs and artifacts in the user's data folder, are removed on the machine on
    which the command runs. Files in a folder of --artifacts stay.

    \b
    Example:
      opencode-tasks purge --before 2026-11-01
    """  # noqa: D301  click reads the character \b
    try:
        day = date.fromisoformat(before)
    except ValueError:
        raise InputError((f"--before: {before!r} is not a day like 2026-11-01",)) from None
    from opencode_tasks.engine.kept_files import remove_kept_files
    from opencode_tasks.engine.shown_work import size_text

    with open_existing(ledger) as opened:
        first_kept = datetime.combine(day, time.min, UTC)
        purged = opened.retention.purge(first_kept, texts_only=texts_only, now=datetime.now(UTC))
        removed = remove_kept_files(opened, purged.run_ids)
    runs = "1 run" if purged.runs == 1 else f"{purged.runs} runs"
    typer.echo(f"{runs} with {purged.rows} rows purged")
    if removed.workspaces or removed.files:
        kept = [_count(removed.workspaces, "kept workspace"), _count(removed.files, "stored file")]
        typer.echo(f"{' and '.join(filter(None, kept))} removed, {size_text(removed.size_bytes)}")
    for machine in purged.machines:
        typer.echo(f"their files on {machine} are still there: run the command there too")


def _count(number: int, what: str) -> str:
    """A number with its noun; "" for none."""
    return "" if not number else f"{number:,} {what}{'' if number == 1 else 's'}"
