"""``opencode-tasks view``: a web page to read and correct the rows of a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opencode_tasks.cli.help_text import Command
from opencode_tasks.cli.ledger_option import NEWEST, RUN_HELP, LedgerOption, named_run, open_existing
from opencode_tasks.cli.review import user_name
from opencode_tasks.system.loopback import MAX_PORT

if TYPE_CHECKING:
    from opencode_tasks.ledger import Ledger


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("view", cls=Command)(view)


def view(
    run_id: Annotated[
        str | None,
        typer.Argument(metavar="RUN_ID", help=f"{RUN_HELP} Default: the newest one."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name under which reviews are written. Default: your user name."),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_PORT,
            metavar="PORT",
            show_default=False,
            help="Port of the page. Default: a free one.",
        ),
    ] = 0,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Print the address and open no browser.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the page to this folder and end: to read, without corrections. It opens without a "
            "server and without a network.",
        ),
    ] = None,
    ledger: LedgerOption = None,
) -> None:
    """Show the rows of a run in the browser, to read them and to correct their answers.

    The page lists the rows with filters and a search. A row shows its prompt, answer, reasoning, tool calls,
    attempts and costs. A person confirms or corrects its answer with a key: the answer becomes that of the
    row and a gold value. The keys are listed under "?". The page is for this machine alone, and for those
    who have its address. Ctrl-C ends it.

    \b
    Examples:
      opencode-tasks view
      opencode-tasks view 20261127-143000-4e9a72 --by maria
      opencode-tasks view 20261127-143000-4e9a72 --export rows/
    """  # noqa: D301  click reads the character \b
    with open_existing(ledger) as opened:
        found = _run_id(opened, run_id)
        if export is not None:
            from opencode_tasks.view.static_export import export_rows

            typer.echo(f"{export_rows(opened, found, export)} rows -> {export / 'index.html'}")
            return
        _serve(opened, found, by or user_name(), port, opens=not no_open)


def _run_id(ledger: Ledger, run_id: str | None) -> str:
    """The named run, or the newest one. Raises InputError if there is none."""
    from opencode_tasks.engine.run_check import checked_run

    run_id = named_run(ledger, run_id or NEWEST)
    checked_run(run_id, ledger.row_list.run(run_id))
    return run_id


def _serve(ledger: Ledger, run_id: str, by: str, port: int, *, opens: bool) -> None:
    from opencode_tasks.system.signals import run_in_thread
    from opencode_tasks.view.server import ViewServer

    server = ViewServer(ledger, run_id, by=by, port=port)
    typer.echo(server.address)
    typer.echo(f"run {run_id}; reviews are written as {by}; Ctrl-C ends", err=True)
    if opens and _has_screen():
        import webbrowser

        webbrowser.open(server.address_once)
    run_in_thread(server.run, on_stop=server.stop, on_kill=_nothing)


def _has_screen() -> bool:
    """Whether a browser can show a page: one in the terminal would take the keys of Ctrl-C."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _nothing() -> None:
    """The line after a second Ctrl-C."""
