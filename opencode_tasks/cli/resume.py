"""``opencode-tasks resume``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from opencode_tasks.cli.annotate import run_command
from opencode_tasks.cli.command_options import declared
from opencode_tasks.cli.help_text import Command
from opencode_tasks.cli.ledger_option import LedgerOption, named_run, open_existing
from opencode_tasks.domain.url_secrets import has_hidden_part
from opencode_tasks.errors import InputError
from opencode_tasks.plan.option_signatures import DATASET, TABLES, with_defaults

AGAIN = "Address of {}, if it had a password, a token or a signature: these are not stored."


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("resume", cls=Command)(resume)


def resume(
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_ID",
            help="Run to resume, or the beginning of its id. Default: the newest unfinished run of a command "
            "or a deployment.",
        ),
    ] = None,
    ledger: LedgerOption = None,
    source: Annotated[
        str | None,
        typer.Option("--input", metavar="URL", help=AGAIN.format("INPUT")),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="URL", help=AGAIN.format("OUTPUT")),
    ] = None,
    max_cost: Annotated[
        float | None,
        declared("max_cost", help_text="New cost limit of the whole run, in USD. Default: the old limit."),
    ] = None,
    no_wait: Annotated[bool, declared("no_wait")] = False,
    as_json: Annotated[bool, declared("as_json")] = False,
    verbose: Annotated[bool, declared("verbose")] = False,
) -> int:
    """Continue a run that was paused, interrupted or killed.

    Finished rows are not sent again. If a provider refused its credentials, one row is sent first. If the
    budget of the run was reached, give it a higher one with --max-cost. A run of a deployment is resumed
    in Prefect, which starts its flow run again.

    \b
    Examples:
      opencode-tasks resume
      opencode-tasks resume 20261127-143000-4e9a72 --max-cost 10
    """  # noqa: D301  click reads the character \b
    command, found, flow_run_id = _look_up(run_id, ledger)
    if flow_run_id is not None:
        from opencode_tasks.orchestration.resume import resume_flow_run

        typer.echo(resume_flow_run(flow_run_id, max_cost=max_cost), err=True)
        return 0
    options = {**TABLES, **DATASET}
    # An option that this version does not know any more is left out.
    saved = {name: value for name, value in command.items() if name in options}
    saved |= _addresses(found, command, input=source, output=target)
    # Without a new budget the run keeps the one in its ledger.
    values = with_defaults(saved, options) | {"ledger": ledger, "max_cost": max_cost, "no_wait": no_wait}
    return run_command(values, as_json=as_json, is_verbose=verbose, run_id=found)


def _addresses(run_id: str, command: Mapping[str, Any], **given: str | None) -> dict[str, str]:
    """INPUT and OUTPUT as given again. Raises InputError if one is needed: a secret in it is not stored."""
    faults = [
        f"run {run_id}: the address of {name.upper()} had a secret, which is not stored ({command[name]}): "
        f"give it again with --{name}"
        for name, address in given.items()
        if address is None and has_hidden_part(command.get(name) or "")
    ]
    if faults:
        raise InputError(tuple(faults))
    return {name: address for name, address in given.items() if address is not None}


def _look_up(run_id: str | None, ledger: str | None) -> tuple[dict[str, Any], str, str | None]:
    """The saved command of a run, its id, and, for the run of a deployment, the flow run to resume.

    Raises InputError if the run is unknown, has no open row, or is not resumed by a command.
    """
    from opencode_tasks.engine.run_check import checked_run
    from opencode_tasks.ledger import UNFINISHED, resumable_command

    with open_existing(ledger) as opened:
        found = named_run(opened, run_id) if run_id else opened.runs.newest_unfinished()
        if found is None:
            raise InputError(("RUN_ID: every run of this ledger has ended (see: opencode-tasks runs)",))
        run = opened.runs.get(found)
        if run is not None and run["parent_run_id"] is not None:
            # A part is continued with its run.
            found = str(run["parent_run_id"])
            run = opened.runs.get(found)
        has_open_part = any(part.is_unfinished for part in opened.votes.parts(found))
    run = checked_run(found, run)
    # A run that was stopped after its last row has only its OUTPUT to write.
    if run["open"] == 0 and not has_open_part and run["status"] not in UNFINISHED:
        raise InputError((f"run {found} has no open row: it is {run['status']}",))
    if run["deployment"] and run["flow_run_ids"]:
        return {}, found, run["flow_run_ids"][-1]
    if not (command := resumable_command(run["parameters"])):
        raise InputError((_not_resumable(found, run["parameters"]),))
    return dict(command), found, None


def _not_resumable(run_id: str, parameters: Mapping[str, Any]) -> str:
    """Why a run without resumable options is not resumed, and what to do."""
    if (command := parameters.get("started_by")) is not None:
        again = "run that command again, finished rows are kept"
        return f"run {run_id} is part of opencode-tasks {command}: {again}"
    if parameters.get("command"):
        return f"run {run_id} had its opencode config as a value, which is not saved: run its flow again"
    return f"run {run_id} was started from Python: run its program or flow again, finished rows are kept"
