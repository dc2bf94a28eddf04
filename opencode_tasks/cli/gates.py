"""``opencode-tasks gates``: the gates that hold or limit rows, and a way to open one."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from opencode_tasks.cli.command_options import declared
from opencode_tasks.cli.help_text import Command
from opencode_tasks.cli.ledger_option import LedgerOption, open_existing
from opencode_tasks.domain.advice import fix_for
from opencode_tasks.engine.progress_text import count_of, duration
from opencode_tasks.errors import InputError
from opencode_tasks.outcomes.message_cleanup import presentable

if TYPE_CHECKING:
    from opencode_tasks.ledger import ListedGate


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gates", cls=Command)(gates)


def gates(
    action: Annotated[
        Literal["list", "open"],
        typer.Argument(
            metavar="list|open", show_default=False, help="List the gates, or open the one named next."
        ),
    ] = "list",
    gate: Annotated[str | None, typer.Argument(metavar="GATE", help="Name of the gate, as listed.")] = None,
    ledger: LedgerOption = None,
    as_json: Annotated[bool, declared("as_json", help_text="Print a JSON list.")] = False,
) -> None:
    """List the gates that hold or limit rows, or open one.

    A gate is closed while the provider refuses all requests with a credential: until a time, or until a
    person acts. Open a gate if you know that the cause is fixed. Its rows are sent again by a run that
    waits, or by opencode-tasks resume. The gate of a key that was replaced stays listed and holds no row.

    \b
    Examples:
      opencode-tasks gates
      opencode-tasks gates open anthropic/claude-haiku-4-5#0f3a52c19b7e
    """  # noqa: D301  click reads the character \b
    if action == "open" and gate is None:
        raise InputError(("GATE: name the gate to open (see: opencode-tasks gates)",))
    if action == "list" and gate is not None:
        raise InputError((f"GATE: {gate!r} cannot be listed alone; leave it out",))
    now = datetime.now(UTC)
    with open_existing(ledger) as opened:
        if gate is not None:
            was_closed = opened.gates.open(gate, now=now)
            if was_closed is None:
                raise InputError(
                    (f"GATE: there is no gate {gate!r} in this ledger (see: opencode-tasks gates)",)
                )
            typer.echo(f"{gate} is open{'' if was_closed else ' already'}")
            return
        found = opened.gates.list(now=now)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], default=str, indent=2))
        return
    for line in [line for one in found for line in _lines(one, now)] or ["no gate is closed or limited"]:
        typer.echo(line)


def state_text(gate: ListedGate, now: datetime) -> str:
    """The state of a gate in a few words, with its times on the local clock."""
    since = "" if gate.since is None else f" since {_local(gate.since)}"
    match gate.state:
        case "limited":
            return f"limited to {count_of(gate.max_rows or 0)} at a time{since}"
        case "half_open":
            return f"half open{since}: one row tests the provider"
        case "closed":
            if gate.until is None:
                return f"closed{since}, until {'a person acts' if gate.needs_person else 'a run tests it'}"
            left = duration((gate.until - now).total_seconds())
            return f"closed{since}, until {_local(gate.until)} (in {left})"


def reason_text(gate: ListedGate) -> str | None:
    """The type of the provider's error and its message in one line; None if none is stored."""
    if gate.error_type is None:
        return None
    message = f": {presentable(gate.error_message)}" if gate.error_message else ""
    return f"{gate.error_type}{message}"


def _lines(gate: ListedGate, now: datetime) -> list[str]:
    waits = "waits" if gate.waiting_rows == 1 else "wait"
    waiting = f"{count_of(gate.waiting_rows)} {waits}" if gate.waiting_rows else "no row waits"
    lines = [f"{gate.gate_id}  {state_text(gate, now)}; {waiting}"]
    if (reason := reason_text(gate)) is not None:
        lines.append(f"  {reason}")
    if gate.error_type is not None and gate.needs_person:
        lines.append(f"  fix: {fix_for(gate.error_type, gate.model_ref)}")
    return lines


def _local(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S %Z}"
