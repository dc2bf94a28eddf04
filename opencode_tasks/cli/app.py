"""The application ``opencode-tasks`` and its commands."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from typing import Annotated, Final, NoReturn

import typer

from opencode_tasks.cli import exit_codes as exits
from opencode_tasks.cli.help_text import CONTEXT, print_help
from opencode_tasks.cli.standard_streams import outlive_readers
from opencode_tasks.system.folders import can_be_made, home, private_temp_folders
from opencode_tasks.system.loopback import loopback_bypass

MAX_ARENAS = 2

app: Final = typer.Typer(
    name="opencode-tasks",
    epilog=(
        "Exit codes: 0 all rows completed, 1 some rows failed or --min-accuracy was missed, 2 usage error "
        "(nothing was sent), 70 internal error, 75 paused (continue with opencode-tasks resume), 130 Ctrl-C."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=CONTEXT,
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
    """Run a table of prompts through opencode, as Prefect flows on Ray.

    \b
    First steps:
      opencode-tasks setup
      opencode-tasks annotate reviews.csv -o labelled.csv --model anthropic/claude-haiku-4-5 \\
          --template "Positive or negative? {text}"
      opencode-tasks report --by model
    """  # noqa: D301  click reads the character \b
    del version


def with_commands() -> typer.Typer:
    """The application with all its commands."""
    from opencode_tasks.cli import (
        annotate,
        audit,
        choose,
        compare,
        doctor,
        export,
        gates,
        local_model,
        purge,
        report,
        resume,
        review,
        runs,
        setup,
        view,
    )

    if not app.registered_commands:
        for module in (
            setup,
            doctor,
            annotate,
            choose,
            resume,
            export,
            runs,
            view,
            audit,
            compare,
            review,
            gates,
            report,
            purge,
            local_model,
        ):
            module.register(app)
    return app


def set_environment() -> None:
    """Set the variables that Prefect, Ray and HTTP clients read while they are loaded."""
    if "PREFECT_LOGGING_LEVEL" not in os.environ:
        # The logs of Prefect and Ray would hide the lines of the command. Those of the flow run are sent
        # to its API.
        os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
        for name in ("FLOW_RUNS", "TASK_RUNS"):
            os.environ.setdefault(f"PREFECT_LOGGING_LOGGERS_PREFECT_{name}_LEVEL", "INFO")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    # Prefect would print a notice about usage data on a terminal, and send such data.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "PREFECT_HOME" not in os.environ and not can_be_made(home() / ".prefect"):
        for folder in private_temp_folders()[:1]:
            os.environ["PREFECT_HOME"] = str(folder / "prefect")
    # For every client in this process and the processes that it starts.
    os.environ.update(loopback_bypass(os.environ))


def limit_arenas() -> None:
    """Have threads share memory that others have freed.

    glibc keeps freed memory in an arena of each thread, up to eight for each core. The interpreter's lock
    leaves few threads that allocate at once. ``benchmarks/scale.py`` shows the memory of a run.
    """
    # The number is M_ARENA_MAX of glibc's malloc.h. Other C libraries have no such function.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(-8, MAX_ARENAS)


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    outlive_readers()
    limit_arenas()
    set_environment()
    application = with_commands()
    if print_help(application, sys.argv[1:]):
        sys.exit(exits.COMPLETED)
    from opencode_tasks.system import interrupt_on_stop_signals

    interrupt_on_stop_signals()
    sys.exit(exits.guarded(application))
