"""``opencode-tasks doctor``: is everything here that a run needs, and if not, what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from opencode_tasks.cli import exit_codes as exits
from opencode_tasks.errors import SetupError

Finding = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Check opencode, its logins, the Prefect API, Ray and the ledger: each ok, or what to do.

    Nothing is changed and no provider is called. Exit 0 where all is ok, 70 where something is not.
    """
    from opencode_tasks.cli.checks import CHECKS

    findings = {name: _checked(check) for name, check in CHECKS.items()}
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
    else:
        for name, finding in findings.items():
            typer.echo(f"{'ok  ' if finding['ok'] else 'MEND'}  {name:<12} {finding['detail']}")
            if finding.get("todo"):
                typer.echo(f"      {'':<12} to do: {finding['todo']}")
    return exits.COMPLETED if all(f["ok"] for f in findings.values()) else exits.MACHINERY_FAILED


def _checked(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except SetupError as error:
        return {"ok": False, "detail": error.raw_message, "todo": error.hint}
