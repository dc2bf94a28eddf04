"""``opencode-tasks doctor``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from opencode_tasks.cli import exit_codes as exits
from opencode_tasks.cli.command_options import declared
from opencode_tasks.cli.help_text import Command
from opencode_tasks.errors import SetupError
from opencode_tasks.outcomes.message_cleanup import presentable

Finding = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", cls=Command)(doctor)


def doctor(
    as_json: Annotated[bool, declared("as_json", help_text="Print one JSON object.")] = False,
) -> int:
    """Check that opencode, Prefect, Ray and the ledger work, and list the closed gates.

    Each check prints ok, WARN for something that keeps rows from being sent, such as a closed gate, or FAIL
    with the fix. No provider is called. The exit code is 70 if a check fails, else 0.

    \b
    Example:
      opencode-tasks doctor --json
    """  # noqa: D301  click reads the character \b
    from opencode_tasks.cli.checks import CHECKS
    from opencode_tasks.settings import settings

    # All checks need valid settings.
    settings()
    findings = {name: _checked(check) for name, check in CHECKS.items()}
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
    else:
        for name, finding in findings.items():
            typer.echo(f"{_mark(finding)}  {name:<12} {finding['detail']}")
            if finding.get("fix"):
                typer.echo(f"      {'':<12} fix: {finding['fix']}")
    return exits.COMPLETED if all(f["ok"] for f in findings.values()) else exits.INTERNAL_ERROR


def _mark(finding: Finding) -> str:
    if not finding["ok"]:
        return "FAIL"
    return "WARN" if finding.get("warning") else "ok  "


def _checked(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except SetupError as error:
        detail = presentable(error.raw_message).removesuffix(error.hint or "").rstrip()
        return {"ok": False, "detail": detail, "fix": error.hint}
    # An error of a broken component is the finding.
    except Exception as error:  # noqa: BLE001
        return {"ok": False, "detail": presentable(f"{type(error).__name__}: {error}"), "fix": None}
