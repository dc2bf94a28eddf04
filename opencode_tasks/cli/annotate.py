"""``opencode-tasks annotate``."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from opencode_tasks.cli import exit_codes as exits
from opencode_tasks.cli.early_start import Early, started_early
from opencode_tasks.cli.progress import Display
from opencode_tasks.cli.startup_report import StartupReport
from opencode_tasks.errors import RunPausedError, TooManyFailedError
from opencode_tasks.system.startup_timing import Part, loading, process_began, startup_timing

if TYPE_CHECKING:
    # pandas and Prefect behind it take seconds, which --help must not.
    from opencode_tasks.engine.run import OnRunEvent, RunEvent
    from opencode_tasks.plan.command import PreparedRun

Backend = Literal["server", "cli", "null"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("annotate")(annotate)


def annotate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Table to read: csv, jsonl or parquet, a path or any fsspec URL; a folder of Parquet "
            "files (DIR/); sql:TABLE or sql:SELECT ….",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", help="Table to write, a file or sql:TABLE; INPUT's columns and the answers."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PROVIDER/MODEL",
            help="Default: the one opencode chooses. local/smollm2 needs no provider.",
        ),
    ] = None,
    prompt_column: Annotated[str, typer.Option(help="Column that holds the prompt.")] = "prompt",
    template: Annotated[
        str | None, typer.Option(help='Prompt made of columns instead: "Label this: {text}".')
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(metavar="ID", help="Column that names a row. Default: its position.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Column to report cost by; may be repeated.")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System text.")] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Agent of your opencode config, or a Prefect block of kind OpenCodeAgent. "
            "Default: an agent without tools.",
        ),
    ] = None,
    credentials: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Prefect block of kind OpenCodeCredentials with provider keys. Default: your own.",
        ),
    ] = None,
    mcp_server: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="MCP server of your opencode config whose tools the default agent may use; may be repeated.",
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(metavar="V", help="Variant of the model (reasoning effort).")
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(metavar="FILE.json", help="JSON Schema of the answer; each field becomes a column."),
    ] = None,
    opencode_config: Annotated[
        str | None, typer.Option(metavar="FILE.json", help="opencode config: providers, MCP servers, agents.")
    ] = None,
    opencode_bin: Annotated[
        str | None, typer.Option(metavar="PATH", help="opencode binary. Default: the one that setup found.")
    ] = None,
    work_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder opencode works in. Default: an empty one.")
    ] = None,
    log_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder for a readable trace of every attempt.")
    ] = None,
    runner: Annotated[Literal["ray", "threads"], typer.Option(help="Where batches run.")] = "ray",
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Ray cluster to join. Default: a local Ray.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Rows of one task. Default: chosen and printed.")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Most rows in flight in the whole run. Default: as many as the provider is found to take.",
        ),
    ] = None,
    requests_per_minute: Annotated[
        int | None,
        typer.Option(metavar="N", help="Requests that the provider allows in a minute, in all your runs."),
    ] = None,
    tokens_per_minute: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens that the provider allows in a minute, in all your runs."),
    ] = None,
    backend: Annotated[
        Backend,
        typer.Option(
            help="A warm server, a process for each row, or no model: the prompt is the answer (to measure)."
        ),
    ] = "server",
    timeout: Annotated[float, typer.Option(metavar="S", help="Seconds that one attempt may take.")] = 600.0,
    max_attempts: Annotated[int, typer.Option(metavar="N", help="Attempts of one row.")] = 3,
    bad_rows: Annotated[
        Literal["stop", "fail"],
        typer.Option(help="Stop at bad rows before anything starts, or fail them and run the rest."),
    ] = "stop",
    ledger: Annotated[
        str | None, typer.Option(metavar="URL", help="Ledger: a path, sqlite:///… or postgresql://… URL.")
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(metavar="USD", help="What the whole run may cost: no row is sent that could exceed it."),
    ] = None,
    max_row_cost: Annotated[
        float | None,
        typer.Option(
            metavar="USD",
            help="What one row may cost: an agent that has spent more is ended at its next step.",
        ),
    ] = None,
    on_budget: Annotated[
        Literal["pause", "skip"],
        typer.Option(help="Where --max-cost is too little for the rows left: pause the run, or skip them."),
    ] = "pause",
    max_failed: Annotated[
        str | None,
        typer.Option(
            metavar="N|N%", help="The flow run is Failed where more rows fail. Default: any number may."
        ),
    ] = None,
    no_wait: Annotated[
        bool,
        typer.Option(
            "--no-wait", help="Where rows must wait for over a minute, stop and tell how to resume."
        ),
    ] = False,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N rows.")] = None,
    incremental: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Only rows that no earlier run over INPUT has an answer for; KEY is the column that "
            "names a row.",
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Database of sql: tables: an SQLAlchemy URL, or block://secret/NAME."
        ),
    ] = None,
    partition_by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Write OUTPUT (named ….parquet) as a folder of Parquet files, a folder for each value; "
            "may be repeated.",
        ),
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask again what the ledger has an answer for.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything and say what would be done; no provider is called."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> int:
    """Run each row's prompt through opencode and write the answers beside it.

    Rows that the ledger has an answer for, under the same prompt, model and settings, are not
    bought again: after an interruption, run the same command again.

    \b
    opencode-tasks annotate reviews.csv -o labelled.csv \\
        --template "Positive or negative? {text}" --model anthropic/claude-haiku-4-5
    """  # noqa: D301  click wants the character that \b is
    options: dict[str, Any] = {
        "model": model,
        "prompt_column": prompt_column,
        "template": template,
        "id_column": id_column,
        "label": label or [],
        "system": system,
        "agent": agent,
        "credentials": credentials,
        "mcp_servers": mcp_server or [],
        "variant": variant,
        "schema": schema,
        "opencode_config": opencode_config,
        "opencode_bin": opencode_bin,
        "work_dir": work_dir,
        "log_dir": log_dir,
        "batch_size": batch_size,
        "concurrency": concurrency,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "backend": backend,
        "timeout": timeout,
        "max_attempts": max_attempts,
        "bad_rows": bad_rows,
        "ledger": ledger,
        "refresh": refresh,
        "max_cost": max_cost,
        "max_row_cost": max_row_cost,
        "on_budget": on_budget,
        "max_failed": max_failed,
        "incremental": incremental,
        "database": database,
        "partition_by": partition_by or [],
    }
    where = {"runner": runner, "ray_address": ray_address}
    with contextlib.ExitStack() as stack:
        display = stack.enter_context(Display())
        prepared, early = prepare_shown(
            stack,
            display,
            source,
            output,
            limit=limit,
            no_wait=no_wait,
            options=options | where,
            dry_run=dry_run,
        )
        if dry_run:
            return _tell_dry_run(prepared.plan, as_json)
        return run_shown(stack, display, prepared, early, as_json=as_json)


def prepare_shown(
    stack: contextlib.ExitStack,
    display: Display,
    source: str,
    output: str,
    *,
    limit: int | None,
    no_wait: bool,
    options: dict[str, Any],
    run_id: str | None = None,
    dry_run: bool = False,
) -> tuple[PreparedRun, Early]:
    """Check all there is to check, and say what will be asked; what was started meanwhile."""
    startup_timing.add([Part("loading", process_began(), time.time())])
    from opencode_tasks.local_model import local_provider
    from opencode_tasks.opencode.server_pool import server_pool

    stack.callback(server_pool.close)
    base_config = stack.enter_context(local_provider(options["model"], display.say))
    if not dry_run:
        display.starting()
    early = stack.enter_context(started_early(source, options, base_config, dry_run=dry_run))
    with loading():
        from opencode_tasks.orchestration.resolver import BlockResolver
        from opencode_tasks.plan.command import prepare

        if not dry_run:
            # Prefect is loaded while opencode starts.
            importlib.import_module("opencode_tasks.orchestration.flows")

    on_wait = "raise" if no_wait else "wait"
    prepared = prepare(
        source,
        output,
        resolver=BlockResolver(),
        limit=limit,
        base_config=base_config,
        on_wait=on_wait,
        run_id=run_id,
        **options,
    )
    plan = prepared.plan
    if plan.catalog is not None:
        loaded = (
            ""
            if plan.catalog.plugin_loaded
            else "; its plugin did not load: waits are read from opencode's own words"
        )
        display.say(f"opencode {plan.catalog.version}, model {plan.catalog.model_ref}{loaded}")
        if plan.catalog.model_ref in plan.catalog.unpriced:
            display.say(f"the price of {plan.catalog.model_ref} is unknown: cost_usd stays empty")
    for position, fault in plan.checked.row_faults.items():
        display.say(f"row {position} fails: {fault}")
    return prepared, early


def run_shown(
    stack: contextlib.ExitStack, display: Display, prepared: PreparedRun, early: Early, *, as_json: bool
) -> int:
    """Run what is prepared, as a flow, and tell what came of it; the exit code."""
    from opencode_tasks.engine.result import read_summary

    first = StartupReport(prepared.plan.ledger_url, display.say)

    def tell(told: RunEvent) -> None:
        first.told(told)
        display.told(told)

    try:
        summary = _run_flow(stack, display, prepared, early, on_event=tell)
    except RunPausedError as paused:
        if as_json:
            typer.echo(json.dumps(read_summary(prepared.plan.ledger_url, paused.run_id)))
        raise
    except TooManyFailedError as many:
        summary = dict(many.summary)
        display.say(str(many))
    _tell_summary(display, summary, prepared.context.command["output"], as_json)
    rows = summary["rows"]
    return exits.SOME_FAILED if rows["failed"] or rows["skipped"] else exits.COMPLETED


def _run_flow(
    stack: contextlib.ExitStack,
    display: Display,
    prepared: PreparedRun,
    early: Early,
    on_event: OnRunEvent,
) -> dict[str, Any]:
    with loading():
        from opencode_tasks.orchestration.flows import prepared_flow
        from opencode_tasks.orchestration.local_server import prefect_api

    parameters = dict(prepared.context.command)
    runner, ray_address = parameters["runner"], parameters["ray_address"]
    stack.enter_context(prefect_api(display.say, early.prefect))
    if runner == "ray":
        display.say(f"Ray: joining {ray_address}" if ray_address else "Ray: a local one, for this run alone")
    if early.ray is not None:
        early.ray.wait()
    shown = {"runner": runner, "ray_address": ray_address, **without_secrets(parameters)}
    try:
        return prepared_flow(prepared, on_event=on_event)(
            input=shown.pop("input"), output=shown.pop("output"), options=shown
        )
    except KeyboardInterrupt:
        display.say(
            "interrupted: what was finished is kept in the ledger; to go on: opencode-tasks resume, "
            "or run the same command again:"
        )
        display.say(f"  {shlex.join(['opencode-tasks', *resume_arguments(sys.argv[1:])])}")
        raise


def resume_arguments(arguments: list[str]) -> list[str]:
    """The command line that goes on: without --refresh, which would ask again, and without passwords."""
    return [re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", word) for word in arguments if word != "--refresh"]


def without_secrets(parameters: dict[str, Any]) -> dict[str, Any]:
    """Flow parameters that Prefect may store: no config and no ledger URL, which can hold secrets."""
    kept = (
        "input",
        "output",
        "model",
        "prompt_column",
        "template",
        "id_column",
        "label",
        "agent",
        "credentials",
        "mcp_servers",
        "variant",
        "backend",
        "requests_per_minute",
        "tokens_per_minute",
        "max_cost",
        "max_row_cost",
        "on_budget",
        "max_failed",
        "incremental",
        "partition_by",
    )
    return {name: parameters[name] for name in kept}


def _tell_dry_run(plan: Any, as_json: bool) -> int:
    told = {
        "dry_run": True,
        "rows": len(plan.rows),
        "bad_rows": len(plan.checked.row_faults),
        "different_rows": len({row.row_key for row in plan.rows}),
        "model_ref": plan.catalog.model_ref if plan.catalog else None,
        "opencode": plan.catalog.version if plan.catalog else None,
    }
    if as_json:
        typer.echo(json.dumps(told))
    else:
        typer.echo(
            f"{told['rows']} rows ({told['different_rows']} different) would be sent to {told['model_ref']}"
        )
    return exits.COMPLETED


def _tell_summary(display: Display, summary: dict[str, Any], output: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary))
        return
    rows, tokens = summary["rows"], summary["tokens"]
    counts = ", ".join(
        f"{rows[name]} {name}"
        for name in ("completed", "failed", "skipped", "open")
        if rows[name] or name == "completed"
    )
    reused = f" ({rows['reused']} of them from earlier answers)" if rows["reused"] else ""
    typer.echo(f"{counts}{reused} -> {_shown_path(output)}")
    counted = ", ".join(
        f"{'unknown' if n is None else f'{n:,}'} {kind.removesuffix('_tokens')}" for kind, n in tokens.items()
    )
    typer.echo(f"tokens: {counted}")
    typer.echo(f"cost: {_cost(summary)}, {summary['seconds']:.1f} s, run {summary['run_id']}")
    if over := summary["budget"]["over_usd"]:
        display.say(f"{_usd(over)} beyond the budget: rows cost more than was set aside for them")
    if rows["failed"]:
        display.say("see the columns error_type and error_message of the output")


def _shown_path(path: str) -> str:
    """A path as short as it can be said from here."""
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path


def _usd(amount: float) -> str:
    from opencode_tasks.domain.money import format_usd, usd_to_pico

    return format_usd(usd_to_pico(amount))


def _cost(summary: dict[str, Any]) -> str:
    from opencode_tasks.domain.money import format_usd, usd_to_pico

    known = format_usd(usd_to_pico(summary["known_cost_usd"] or 0))
    return known if summary["cost_usd"] is not None else f"{known} and an unknown part"
