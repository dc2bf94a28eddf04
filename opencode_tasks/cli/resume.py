"""``opencode-tasks resume``: a run goes on where it stopped."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import typer

from opencode_tasks.cli.annotate import prepare_shown, run_shown
from opencode_tasks.cli.ledger_option import LedgerOption, open_existing
from opencode_tasks.cli.progress import Display
from opencode_tasks.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("resume")(resume)


def resume(
    run_id: Annotated[
        str | None, typer.Argument(help="The run. Default: the newest that has not ended.")
    ] = None,
    ledger: LedgerOption = None,
    max_cost: Annotated[
        float | None, typer.Option(metavar="USD", help="A new budget of the whole run.")
    ] = None,
    no_wait: Annotated[
        bool,
        typer.Option(
            "--no-wait", help="Where rows must wait for over a minute, stop and tell how to resume."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> int:
    """Go on with a run that was paused, interrupted or killed.

    Finished rows are not sent again. Where a provider refused its credentials, one row is tried
    first. Where the run's budget was reached, --max-cost gives it a higher one. A run of a deployment
    is handed back to Prefect, which starts its flow run again.
    """
    command, found, flow_run_id = _look_up(run_id, ledger)
    if flow_run_id is not None:
        from opencode_tasks.orchestration.resume import resume_flow_run

        typer.echo(resume_flow_run(flow_run_id, max_cost=max_cost), err=True)
        return 0
    source, output, limit = command.pop("input"), command.pop("output"), command.pop("limit")
    with contextlib.ExitStack() as stack:
        display = stack.enter_context(Display())
        prepared, early = prepare_shown(
            stack,
            display,
            source,
            output,
            limit=limit,
            no_wait=no_wait,
            # Without a new one the run keeps the budget that its ledger has.
            options=command | {"ledger": ledger, "max_cost": max_cost},
            run_id=found,
        )
        return run_shown(stack, display, prepared, early, as_json=as_json)


def _look_up(run_id: str | None, ledger: str | None) -> tuple[dict[str, Any], str, str | None]:
    """How the run was started, its id, and the flow run that goes on with it in a deployment."""
    with open_existing(ledger) as opened:
        found = run_id or opened.runs.newest_unfinished()
        if found is None:
            raise InputError(("RUN_ID: every run of this ledger has ended (see: opencode-tasks runs)",))
        run = opened.runs.get(found)
    if run is None:
        raise InputError((f"RUN_ID: there is no run {found} in this ledger (see: opencode-tasks runs)",))
    if run["open"] == 0:
        raise InputError((f"run {found} has no open row: it is {run['status']}",))
    if run["deployment"] and run["flow_run_ids"]:
        return {}, found, run["flow_run_ids"][-1]
    command: dict[str, Any] = dict(run["parameters"].get("command") or {})
    if not command:
        raise InputError(
            (f"run {found} was not started by a command: run its flow again, it takes over what is finished",)
        )
    if isinstance(command.get("opencode_config"), dict):
        raise InputError(
            (f"run {found} had its opencode config as a value, which is not kept: run its flow again",)
        )
    return command, found, None
