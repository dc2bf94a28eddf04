"""The commands of ``opencode-tasks`` and what each exit code means."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from opencode_tasks.cli import exit_codes as exits

app = typer.Typer(
    name="opencode-tasks",
    help="Run a table of prompts through opencode, as Prefect flows on Ray.",
    epilog=(
        "Exit codes: 0 all rows completed, 1 some failed, 2 wrong use, 70 the machinery failed, "
        "75 paused (opencode-tasks resume goes on), 130 Ctrl-C."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(version("opencode-tasks"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run a table of prompts through opencode, as Prefect flows on Ray."""
    del version


def main() -> NoReturn:
    """Run the command line; every way out has its exit code."""
    # Prefect's and Ray's own chatter would hide what the command has to say.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from opencode_tasks.cli import (
        annotate,
        doctor,
        export,
        local_model,
        purge,
        report,
        resume,
        runs,
        setup,
    )
    from opencode_tasks.system import install_stop_handlers

    for module in (setup, doctor, annotate, resume, export, runs, report, purge, local_model):
        module.register(app)
    # Prefect, which handles SIGTERM while a flow runs, passes it on to the handler that was there.
    install_stop_handlers()
    sys.exit(exits.guarded(app))
