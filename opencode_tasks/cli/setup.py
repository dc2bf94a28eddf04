"""``opencode-tasks setup``."""

from __future__ import annotations

from typing import Annotated

import typer

from opencode_tasks.errors import SetupError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("setup")(setup)


def setup(
    local: Annotated[bool, typer.Option("--local", help="Fetch the small local model too.")] = False,
) -> None:
    """Find opencode, or install the pinned version from npm into the user's cache.

    Prints the path of the binary. Also prepares the database of the Prefect server that a run starts
    for itself. Doing it again changes nothing.
    """
    from opencode_tasks.opencode.binary import check_version, find_binary, version_of
    from opencode_tasks.opencode.install import install_local_model, install_opencode
    from opencode_tasks.orchestration.local_server import make_template
    from opencode_tasks.settings import settings

    def say(message: str) -> None:
        typer.echo(message, err=True)

    try:
        binary = find_binary(settings().opencode_bin)
        check_version(version_of(binary))
    except SetupError:
        binary = install_opencode(say)
    say(f"opencode {version_of(binary)} is ready")
    typer.echo(str(binary))
    make_template(say)
    if local:
        model = install_local_model(say)
        say("the local model is ready")
        typer.echo(str(model))
