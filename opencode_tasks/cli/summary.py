"""The lines at the end of a run, and when a run is paused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from opencode_tasks.cli.messages import presentable
from opencode_tasks.domain.advice import fix_for
from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.errors import RunPausedError

Say = Callable[[str], None]
SHOWN_GROUPS = 3


def print_summary(summary: Mapping[str, Any], output: str) -> None:
    """Print rows, tokens and cost of a run on stdout."""
    rows, tokens = summary["rows"], summary["tokens"]
    counts = ", ".join(
        f"{rows[name]} {name}"
        for name in ("completed", "failed", "skipped", "open")
        if rows[name] or name == "completed"
    )
    reused = f" ({rows['reused']} of them from earlier answers)" if rows["reused"] else ""
    typer.echo(f"{counts}{reused} -> {short_path(output)}")
    counted = ", ".join(
        f"{'unknown' if n is None else f'{n:,}'} {kind.removesuffix('_tokens')}" for kind, n in tokens.items()
    )
    typer.echo(f"tokens: {counted}")
    typer.echo(f"cost: {_cost(summary)}, {summary['seconds']:.1f} s, run {summary['run_id']}")


def say_failures(
    say: Say, groups: Sequence[Mapping[str, Any]], failed: int, run_id: str, model_ref: str
) -> None:
    """Name the most frequent messages of the failed rows, with their counts and the fix of each.

    ``groups`` are those of ``ledger.results.failure_messages``.
    """
    for group in groups:
        message = presentable(group["error_message"] or "")
        say(f"{_rows(group['failed_rows'])} failed with {group['error_type']}: {message}")
    for error_type in dict.fromkeys(group["error_type"] or "" for group in groups):
        say(f"fix for {error_type}: {fix_for(error_type, model_ref).replace('RUN_ID', run_id)}")
    others = failed - sum(group["failed_rows"] for group in groups)
    if others > 0:
        say(f"{_rows(others)} failed with other messages: see the column error_message of the output")


def say_paused(say: Say, paused: RunPausedError, output: str, model_ref: str) -> None:
    """Say why a run is paused, what to fix, what the output has, and how to resume."""
    message = presentable(paused.message)
    say(f"run {paused.run_id} is paused with {_rows(paused.open_rows)} open ({paused.error_type}): {message}")
    more = " --max-cost USD" if paused.error_type == "budget_exceeded" else ""
    if paused.until is None:
        say(f"fix: {fix_for(paused.error_type, model_ref)}")
        say(f"then resume: opencode-tasks resume {paused.run_id}{more}")
    else:
        say(f"resume after {paused.until:%Y-%m-%d %H:%M:%S} UTC: opencode-tasks resume {paused.run_id}{more}")
    say(f"finished rows are in {short_path(output)} (or: opencode-tasks export {paused.run_id} -o FILE)")


def short_path(path: str) -> str:
    """A path relative to the working directory if it is below it."""
    with suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def usd(amount: float) -> str:
    """An amount of USD as text."""
    return format_usd(usd_to_pico(amount))


def _cost(summary: Mapping[str, Any]) -> str:
    known = usd(summary["known_cost_usd"] or 0)
    return known if summary["cost_usd"] is not None else f"{known} and an unknown part"
