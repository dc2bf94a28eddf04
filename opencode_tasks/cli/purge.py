"""``opencode-tasks purge``: forget what was said, keep what it cost."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Annotated

import typer

from opencode_tasks.cli.ledger_option import LedgerOption, open_existing
from opencode_tasks.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("purge")(purge)


def purge(
    before: Annotated[
        str, typer.Option(metavar="DATE", help="Runs that ended before this UTC day, such as 2026-11-01.")
    ],
    texts_only: Annotated[bool, typer.Option("--texts-only", help="Keep the ids of rows.")] = False,
    ledger: LedgerOption = None,
) -> None:
    """Remove prompts, answers and traces of old runs from the ledger; what they cost stays.

    The words of providers and the options of the runs go too. Without --texts-only rows keep their
    number alone, since their ids may name somebody. Labels stay: costs are reported by them. Runs that
    can still be resumed are left alone. A purged answer is not taken over by later runs: its row would
    be asked again.
    """
    try:
        day = date.fromisoformat(before)
    except ValueError:
        raise InputError((f"--before: {before!r} is not a day like 2026-11-01",)) from None
    with open_existing(ledger) as opened:
        moment = datetime.combine(day, time.min, UTC)
        purged = opened.retention.purge(moment, texts_only=texts_only, now=datetime.now(UTC))
    runs = "1 run" if purged.runs == 1 else f"{purged.runs} runs"
    typer.echo(f"{runs} with {purged.rows} rows purged")
