"""The lines at the end of a run, and when a run is paused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from opencode_tasks.domain.advice import fix_for
from opencode_tasks.engine.summary_text import paused_line, summary_lines
from opencode_tasks.errors import RunPausedError

Say = Callable[[str], None]


def print_summary(summary: Mapping[str, Any], output: str) -> None:
    """Print rows, tokens and cost of a run on stdout."""
    for line in summary_lines(summary, short_path(output)):
        typer.echo(line)


def say_paused(
    say: Say, paused: RunPausedError, model_ref: str, *, output: str | None, ledger: str = ""
) -> None:
    """Say why a run is paused, what to fix, what the output has, and how to resume.

    ``output`` is None if it could not be written; ``ledger`` is that of ``ledger_argument``.
    """
    say(paused_line(paused))
    budget = " --max-cost USD" if paused.error_type == "budget_exceeded" else ""
    resume = f"opencode-tasks resume {paused.run_id}{ledger}{budget}"
    export = f"opencode-tasks export {paused.run_id} -o FILE{ledger}"
    if paused.until is None:
        say(f"fix: {fix_for(paused.error_type, model_ref)}")
        say(f"then resume: {resume}")
    else:
        say(f"resume after {paused.until:%Y-%m-%d %H:%M:%S} UTC: {resume}")
    if output is None:
        say(f"finished rows are in the ledger: {export}")
    else:
        say(f"finished rows are in {short_path(output)} (or: {export})")


def short_path(path: str) -> str:
    """A path relative to the working directory if it is below it."""
    with suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path
