"""``opencode-tasks audit``: which rows of a run were sent once, and what may have been paid for twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opencode_tasks.cli.command_options import declared
from opencode_tasks.cli.exit_codes import COMPLETED, SOME_FAILED
from opencode_tasks.cli.help_text import Command
from opencode_tasks.cli.ledger_option import RUN_HELP, LedgerOption, named_run, open_existing
from opencode_tasks.domain.money import format_usd, pico_to_usd
from opencode_tasks.domain.text import no_run
from opencode_tasks.domain.usage import total_of
from opencode_tasks.engine.progress_text import count_of
from opencode_tasks.errors import InputError

if TYPE_CHECKING:
    from opencode_tasks.engine.audit import Audit, RepeatedSend

# Lines for single attempts; --json has them all.
MAX_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit", cls=Command)(audit)


def audit(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help=RUN_HELP)],
    ledger: LedgerOption = None,
    as_json: Annotated[bool, declared("as_json", help_text="Print one JSON object.")] = False,
) -> None:
    """Check that each row of a run was sent once, and list what may have been paid for twice.

    The evidence is the ledger, and the processes and sessions of this machine. For each request that may
    have been paid for beside the one that gave the outcome of its row, the audit names the row, the
    reason, the cost in the ledger and the most that the provider may have charged. A run with votes,
    several models or canaries is audited part by part. The exit code is 1 if the evidence contradicts a
    promise: two attempts at one prompt at the same time, a row that was answered twice, an answer that
    was not reused, or sums that differ.

    \b
    Examples:
      opencode-tasks audit 20261127-143000-4e9a72
      opencode-tasks audit 20261127-143000-4e9a72 --json
    """  # noqa: D301  click reads the character \b
    from opencode_tasks.engine.audit import audit as audit_run

    with open_existing(ledger) as opened:
        run_id = named_run(opened, run_id)
        parts = opened.votes.parts(run_id)
        # The rows of a run with votes are in its parts; those of another one are its own.
        own = [] if any(part.part for part in parts) else [run_id]
        audits = [
            found
            for one in (*own, *(part.run_id for part in parts))
            if (found := audit_run(opened, one)) is not None
        ]
    if not audits:
        raise InputError((no_run(run_id),))
    if as_json:
        shown = _parts_as_json(run_id, audits) if parts else _as_json(audits[0])
        typer.echo(json.dumps(shown, default=str, indent=2))
    else:
        typer.echo("\n\n".join("\n".join(_lines(found)) for found in audits))
    raise typer.Exit(SOME_FAILED if any(found.faults for found in audits) else COMPLETED)


def _parts_as_json(run_id: str, audits: Sequence[Audit]) -> dict[str, Any]:
    """The audits of the parts of a run, with the sum of their amounts."""
    return {
        "run_id": run_id,
        "faults": [fault for found in audits for fault in found.faults],
        "cost_usd": pico_to_usd(sum(found.cost_pico for found in audits)),
        "at_most_usd": pico_to_usd(total_of(found.at_most_pico for found in audits)),
        "parts": [_as_json(found) for found in audits],
    }


def _as_json(found: Audit) -> dict[str, Any]:
    """The audit with its amounts in USD, under names that end with ``_usd``."""
    known, most = found.repeated_pico
    return {
        **_in_usd(asdict(found)),
        "repeated": [_in_usd(asdict(one)) for one in found.repeated],
        "in_flight": [_in_usd(asdict(one)) for one in found.in_flight],
        "may_be_paid_twice": {
            "attempts": len(found.repeated),
            "rows": len({one.row_id for one in found.repeated}),
            "cost_usd": pico_to_usd(known),
            "at_most_usd": pico_to_usd(most),
        },
    }


def _in_usd(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{name.removesuffix('_pico')}_usd" if name.endswith("_pico") else name: pico_to_usd(value)
        if name.endswith("_pico")
        else value
        for name, value in fields.items()
    }


def _lines(found: Audit) -> list[str]:
    """The audit for people."""
    names = ("completed", "failed", "skipped", "open", "reused", "never_sent")
    counts = [f"{found.rows[name]} {name.replace('_', ' ')}" for name in names if found.rows[name]]
    sent = f"{count_of(found.sent_rows)} in {_attempts(found.attempts)}; {found.sent_once} by one attempt"
    lines = [
        f"run {found.run_id}: {found.status}, {count_of(found.rows['total'])}: {', '.join(counts) or 'none'}",
        f"sent       {sent}",
    ]
    if found.refused:
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(found.refused.items()))
        lines.append(f"refused    {_attempts(sum(found.refused.values()))} without usage ({kinds})")
    if found.continued:
        lines.append(f"continued  {_attempts(found.continued)} by the next one, in the same session")
    if found.repeated_requests:
        lines.append(f"retried    {found.repeated_requests} requests inside their session, by opencode")
    lines += _repeated_lines(found)
    if found.in_flight:
        lines.append(f"in flight  {_attempts(len(found.in_flight))}")
    lines.append(f"cost       {_usd(found.cost_pico)} in the ledger, at most {_usd(found.at_most_pico)}")
    if found.relay_requests is not None:
        refused = f", {found.relay_refused} refused" if found.relay_refused else ""
        lines.append(f"sandbox    {found.relay_requests} requests let through to the provider{refused}")
    if not found.faults:
        lines.append("checks     no contradiction: attempts at one prompt do not overlap, and all sums agree")
    return lines + [f"fault      {one}" for one in found.faults]


def _repeated_lines(found: Audit) -> list[str]:
    if not found.repeated:
        return ["twice      nothing: each row has one attempt that the provider may have charged"]
    known, most = found.repeated_pico
    count = _attempts(len(found.repeated))
    total = f"{_usd(known)} in the ledger, at most {_usd(most)}"
    lines = [f"twice      {count} may have been paid for beside the one that gave the outcome: {total}"]
    lines += [f"  {_send(one)}" for one in found.repeated[:MAX_SHOWN]]
    if len(found.repeated) > MAX_SHOWN:
        lines.append(f"  and {len(found.repeated) - MAX_SHOWN} more (--json lists them all)")
    return lines


def _send(one: RepeatedSend) -> str:
    most = None if one.cost_pico is None or one.at_most_pico is None else one.cost_pico + one.at_most_pico
    where = "; its session is on this machine, and a resume reads it" if one.session_on_disk else ""
    return (
        f"row {one.row_id!r} attempt {one.attempt} ({one.error_type or 'no error'}): {one.reason}; "
        f"{_usd(one.cost_pico)}, at most {_usd(most)}{where}"
    )


def _attempts(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"


def _usd(pico: int | None) -> str:
    return "unknown" if pico is None else format_usd(pico)
