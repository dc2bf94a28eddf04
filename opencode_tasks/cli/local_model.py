"""``opencode-tasks local-model``."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from opencode_tasks.errors import SetupError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("local-model")(local_model)


def local_model(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    parallel: Annotated[int, typer.Option(min=1, help="Prompts answered at once.")] = 4,
) -> None:
    """Serve the bundled small model until Ctrl-C, and print the opencode config that knows it.

    `annotate --model local/smollm2` starts one by itself; this is for use by hand.
    """
    from opencode_tasks.local_model import opencode_provider_config, start_local_model

    with start_local_model(port=port, parallel=parallel) as running:
        typer.echo(json.dumps(opencode_provider_config(running.base_url), indent=2))
        typer.echo(f"serving at {running.base_url}; Ctrl-C ends it", err=True)
        while running.is_running():
            time.sleep(0.5)
        raise SetupError("unknown", raw_message="the local model ended by itself", hint="start it again")
