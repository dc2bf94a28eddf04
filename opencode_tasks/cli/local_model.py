"""``opencode-tasks local-model``."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from opencode_tasks.cli.help_text import Command
from opencode_tasks.errors import SetupError
from opencode_tasks.system.loopback import MAX_PORT


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("local-model", cls=Command)(local_model)


def local_model(
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_PORT,
            metavar="N",
            show_default=False,
            help="Port on 127.0.0.1; 0 selects a free one. Default: 0.",
        ),
    ] = 0,
    parallel: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", show_default=False, help="Prompts answered at the same time. Default: 4."
        ),
    ] = 4,
) -> None:
    """Serve the bundled small model until Ctrl-C.

    Prints the opencode config for it. With --model local/smollm2, annotate starts this server
    automatically.

    \b
    Example:
      opencode-tasks local-model --port 8080 > opencode.json
    """  # noqa: D301  click reads the character \b
    from opencode_tasks.local_model import opencode_provider_config, start_local_model

    with start_local_model(port=port, parallel=parallel) as running:
        typer.echo(json.dumps(opencode_provider_config(running.base_url), indent=2))
        typer.echo(f"serving at {running.base_url}; Ctrl-C ends it", err=True)
        while running.is_running():
            time.sleep(0.5)
        raise SetupError(
            "unknown", raw_message="the server of the local model ended unexpectedly", hint="start it again"
        )
