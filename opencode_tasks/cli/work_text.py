"""The work of a row in its workspace on a terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import typer

from opencode_tasks.cli.terminal_text import without_controls

MAX_DIFF_LINES = 200
MAX_OUTPUT_LINES = 20
COLOURS = {"added": "green", "removed": "red", "hunk": "cyan"}


def print_work(row: Mapping[str, Any]) -> None:
    """Print the work of a row, with colours on a terminal; nothing for a row without a workspace or tools."""
    from opencode_tasks.engine.shown_work import shown_work

    work = shown_work(row, max_lines=MAX_DIFF_LINES, max_output_lines=MAX_OUTPUT_LINES)
    if work.is_empty:
        return
    typer.echo("\n--- work")
    for name, text in work.facts:
        typer.echo(f"{name:<18} {without_controls(text)}")
    for file in work.artifacts:
        typer.echo(without_controls(f"{'artifact':<18} {file.path} ({file.size}) -> {file.url}"))
    if work.check_output:
        typer.echo(f"\n--- output of the check\n{without_controls(work.check_output)}")
    if work.diff is None and not work.diff_note:
        return
    typer.echo(without_controls(f"\n--- diff{', ' if work.diff_note else ''}{work.diff_note}"))
    if work.diff is not None:
        for line in work.diff.lines:
            _echo(without_controls(line.text), COLOURS.get(line.kind), is_bold=line.kind == "file")
        if work.diff.more:
            typer.echo(f"… {work.diff.more:,} more lines")


def _echo(text: str, colour: str | None, *, is_bold: bool) -> None:
    # https://no-color.org
    is_plain = bool(os.environ.get("NO_COLOR")) or not (colour or is_bold)
    typer.echo(text if is_plain else typer.style(text, fg=colour, bold=is_bold or None))
