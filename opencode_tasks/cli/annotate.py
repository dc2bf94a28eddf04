"""``opencode-tasks annotate``, and the run that ``resume`` shares with it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import time
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from opencode_tasks.cli import exit_codes as exits
from opencode_tasks.cli.command_options import takes
from opencode_tasks.cli.help_text import Command
from opencode_tasks.cli.terminal_text import without_controls
from opencode_tasks.errors import LowAccuracyError, RunPausedError, TooManyFailedError
from opencode_tasks.plan.option_signatures import COMMAND, DATASET, storable

if TYPE_CHECKING:
    # pandas, Prefect and rich behind these take seconds to load, and --help must be fast.
    from opencode_tasks.cli.display import Display
    from opencode_tasks.cli.stop_notice import StopNotice
    from opencode_tasks.engine.executor import Executor
    from opencode_tasks.engine.run import OnRunEvent, RunEvent
    from opencode_tasks.local_model import LocalModelOnDemand
    from opencode_tasks.orchestration.local_ray import EarlyRay
    from opencode_tasks.plan.command import PreparedRun


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("annotate", cls=Command)(annotate)


@takes((*DATASET.values(), *COMMAND.values()))
def annotate(**values: Any) -> int:
    """Send the prompt of each row to opencode and write the answers beside the rows.

    A row whose prompt, model and settings have an answer in the ledger is not sent again. After an
    interruption, run the same command again. With --model given several times, each model answers each row.

    \b
    Examples:
      opencode-tasks annotate reviews.csv -o labelled.csv \\
          --template "Positive or negative? {text}" --model anthropic/claude-haiku-4-5
      opencode-tasks annotate tickets.parquet -o routed.parquet --id-column ticket \\
          --schema route.json --max-cost 5 --dry-run
      opencode-tasks annotate reviews.csv -o labelled.csv --choices positive,negative \\
          --template "Positive or negative? {text}" --model anthropic/claude-haiku-4-5 \\
          --model openai/gpt-5-mini#low --model google/gemini-2.5-flash
    """  # noqa: D301  click reads the character \b
    command = {name: values.pop(name) for name in COMMAND}
    models: list[str] = values["model"]
    # One model is saved as a text, and none as no model.
    values["model"] = models if len(models) > 1 else next(iter(models), None)
    return run_command(
        values,
        as_json=command["as_json"],
        is_verbose=command["verbose"],
        is_dry=command["dry_run"],
        is_approved=command["yes"],
    )


def run_command(
    values: Mapping[str, Any],
    *,
    as_json: bool,
    is_verbose: bool,
    run_id: str | None = None,
    is_dry: bool = False,
    is_approved: bool = False,
) -> int:
    """Run the rows of ``input`` and print the result; return the exit code. For the main thread.

    ``values`` are the options of ``annotate_dataset``. ``run_id`` is a run of the ledger to resume. With
    ``is_dry`` no row is sent, and the result is what a run would send. With ``is_approved`` the rows after a
    pilot are sent without a question.
    """
    from opencode_tasks.cli.display import Display
    from opencode_tasks.cli.stop_notice import StopNotice
    from opencode_tasks.settings import settings

    notice = StopNotice(Display(grace_s=settings().grace))

    def run() -> int:
        with contextlib.ExitStack() as stack:
            display = stack.enter_context(notice.display)
            if not is_dry:
                display.start()
            local = stack.enter_context(_local_model(values["model"], display))
            prepared, ray = _prepare(stack, display, values, local.config, run_id=run_id, is_dry=is_dry)
            prepared = _with_question(prepared, display, is_approved=is_approved)
            if is_dry:
                _print_forecast(prepared, as_json=as_json)
                return exits.COMPLETED
            if local.is_used and _may_send(prepared):
                local.start()
            return _run(stack, notice, prepared, ray, as_json=as_json, is_verbose=is_verbose)

    return notice.run(run)


def _local_model(
    model: str | list[str] | None, display: Display
) -> contextlib.AbstractContextManager[LocalModelOnDemand]:
    from opencode_tasks.local_model import local_model_on_demand

    return local_model_on_demand(model, display.say)


def _may_send(prepared: PreparedRun) -> bool:
    """Whether a row may be sent: False if the ledger has the answers of all rows."""
    from opencode_tasks.engine.estimates import forecast
    from opencode_tasks.ledger import Ledger

    with Ledger.open(prepared.plan.ledger_url) as ledger:
        found = forecast(ledger, prepared.plan)
    return bool(found.send or found.further or found.canaries or prepared.plan.stronger)


def _prepare(
    stack: contextlib.ExitStack,
    display: Display,
    values: Mapping[str, Any],
    base_config: Mapping[str, Any],
    *,
    run_id: str | None,
    is_dry: bool,
) -> tuple[PreparedRun, EarlyRay | None]:
    """Check input and options, and say what will be sent. The services start in the meantime.

    ``base_config`` lies under the opencode config of the options.
    """
    from opencode_tasks.cli.early_start import start_early
    from opencode_tasks.opencode.server_pool import server_pool
    from opencode_tasks.plan.options import with_file_texts
    from opencode_tasks.system.startup_times import Part, process_start_time, startup_timing, timed_imports

    startup_timing.add([Part("loading", process_start_time(), time.time())])
    options = with_file_texts(values)
    stack.callback(server_pool.close)
    services = stack.enter_context(start_early(options, base_config, is_dry=is_dry))
    with timed_imports():
        from opencode_tasks.orchestration.block_resolver import BlockResolver
        from opencode_tasks.plan.command import prepare

        if not is_dry:
            # Prefect is loaded while opencode starts.
            importlib.import_module(
                f"opencode_tasks.orchestration.{'flows' if services.may_use_prefect else 'run_to_output'}"
            )

    on_wait = "raise" if options.pop("no_wait") else "wait"
    source, target = options.pop("input"), options.pop("output")
    prepared = prepare(
        source,
        target,
        resolver=BlockResolver(),
        base_config=base_config,
        on_wait=on_wait,
        run_id=run_id,
        **options,
    )
    for note in prepared.notes:
        display.say(note)
    _say_plan(display, prepared.plan)
    return prepared, services.ray


def _with_question(prepared: PreparedRun, display: Display, *, is_approved: bool) -> PreparedRun:
    """The run, with a question on a terminal before the rows after its pilot are sent."""
    from opencode_tasks.cli.pilot_question import PilotQuestion

    question = PilotQuestion(display, prepared.context.stop, is_approved=is_approved)
    return replace(prepared, context=replace(prepared.context, on_pilot=question))


def _say_plan(display: Display, plan: Any) -> None:
    """Say which opencode and model answer, and which rows are invalid."""
    from opencode_tasks.engine.progress_text import plan_lines
    from opencode_tasks.frames.validate import row_name

    for line in plan_lines(plan):
        display.say(line)
    faults = plan.checked.row_faults
    ids: Mapping[int, str] = plan.checked.rows.ids(faults) if faults else {}
    for position, fault in faults.items():
        display.say(f"{row_name(position, ids[position])} fails: {fault}")


def _run(
    stack: contextlib.ExitStack,
    notice: StopNotice,
    prepared: PreparedRun,
    ray: EarlyRay | None,
    *,
    as_json: bool,
    is_verbose: bool,
) -> int:
    """Run a prepared run and print its result; return the exit code."""
    from opencode_tasks.cli.startup_report import StartupReport
    from opencode_tasks.cli.summary import say_paused
    from opencode_tasks.ledger import ledger_argument
    from opencode_tasks.orchestration.prefect_api import is_configured

    display, plan, output = notice.display, prepared.plan, prepared.context.command["output"]
    ledger = ledger_argument(plan.ledger_name)
    startup = StartupReport(plan.ledger_url, display.say) if is_verbose else None
    output_faults: list[str] = []
    is_failed = False

    def show(event: RunEvent) -> None:
        if startup is not None:
            startup.show(event)
        if event.output_fault is not None:
            output_faults.append(event.output_fault)
        display.show(event)

    try:
        as_flow = is_configured(os.environ, Path.cwd())
        if as_flow:
            _use_prefect(stack, prepared)
        if prepared.context.command["runner"] == "ray":
            _join_ray(stack, display, prepared, ray)
        notice.started(prepared.context.stop, ledger)
        summary = _run_rows(notice, prepared, as_flow=as_flow, on_event=show)
    except RunPausedError as paused:
        display.finish()
        if as_json:
            from opencode_tasks.engine.result import read_summary

            hold = {"error_type": paused.error_type, "message": paused.message}
            until = None if paused.until is None else paused.until.isoformat()
            summary = read_summary(plan.ledger_url, paused.run_id)
            typer.echo(json.dumps({**summary, "hold": {**hold, "until": until}}))
        say_paused(
            display.say,
            paused,
            paused.model_ref or plan.model_ref,
            output=None if output_faults else output,
            ledger=ledger,
        )
        return exits.PAUSED
    except (TooManyFailedError, LowAccuracyError) as error:
        summary, is_failed = dict(error.summary), True
        display.say(str(error))
    display.finish()
    _print_result(display, summary, prepared, as_json=as_json)
    rows = summary["rows"]
    return exits.SOME_FAILED if is_failed or rows["failed"] or rows["skipped"] else exits.COMPLETED


def _print_result(
    display: Display, summary: Mapping[str, Any], prepared: PreparedRun, *, as_json: bool
) -> None:
    from opencode_tasks.cli.summary import print_summary
    from opencode_tasks.engine.summary_text import SHOWN_GROUPS, failure_lines, model_lines, usd
    from opencode_tasks.ledger import Ledger, ledger_argument

    if as_json:
        typer.echo(json.dumps(summary))
    else:
        print_summary(summary, prepared.context.command["output"])
    for line in model_lines(summary):
        display.say(line)
    if over := summary["budget"]["over_usd"]:
        display.say(f"{usd(over)} beyond the budget: rows cost more than was reserved for them")
    run_id, failed = summary["run_id"], summary["rows"]["failed"]
    if failed:
        with Ledger.open(prepared.plan.ledger_url) as ledger:
            groups = ledger.results.failure_messages(run_id, limit=SHOWN_GROUPS)
        ledger_option = ledger_argument(prepared.plan.ledger_name)
        for line in failure_lines(groups, failed, run_id, prepared.plan.model_ref, ledger_option):
            display.say(line)


def _use_prefect(stack: contextlib.ExitStack, prepared: PreparedRun) -> None:
    """Have Prefect log to its API alone, and give up sooner after a stop, for the rest of ``stack``."""
    from opencode_tasks.orchestration.prefect_api import limit_retries
    from opencode_tasks.orchestration.run_log import send_to_api_only

    if os.environ.get("PREFECT_LOGGING_LEVEL") == "CRITICAL":
        send_to_api_only()
    # In a copy of this context, which has Prefect's settings.
    stack.enter_context(prepared.context.stop.calling(partial(copy_context().run, limit_retries)))


def _join_ray(
    stack: contextlib.ExitStack, display: Display, prepared: PreparedRun, ray: EarlyRay | None
) -> None:
    """Join the Ray of the run, or start one if none was started early, for the rest of ``stack``."""
    from opencode_tasks.orchestration.local_ray import running_ray

    address = prepared.context.command["ray_address"]
    display.say(f"Ray: joining {address}" if address else "Ray: a local one, for this run alone")
    if ray is not None:
        ray.wait()
    stack.enter_context(running_ray(address))


def _run_rows(
    notice: StopNotice, prepared: PreparedRun, *, as_flow: bool, on_event: OnRunEvent
) -> dict[str, Any]:
    """Run the rows, as a flow if that is wanted; returns the summary. Raises CommandStopped after a stop."""
    try:
        if as_flow:
            from opencode_tasks.orchestration.flows import prepared_flow

            shown = storable(prepared.context.command)
            return prepared_flow(prepared, on_event=on_event)(
                input=shown.pop("input"), output=shown.pop("output"), options=shown
            )
        from opencode_tasks.orchestration.run_to_output import run_to_output

        return run_to_output(prepared, _executor(prepared), on_event)
    except BaseException as error:
        # Prefect raises its own errors if it cannot record the end of the flow run.
        if not (isinstance(error, KeyboardInterrupt) or notice.is_stopping):
            raise
        raise notice.stopped() from None


def _executor(prepared: PreparedRun) -> Executor:
    """Where the batches run without Prefect."""
    if prepared.context.command["runner"] == "ray":
        from opencode_tasks.orchestration.ray_executor import RayExecutor

        return RayExecutor()
    from opencode_tasks.engine.thread_executor import ThreadExecutor

    return ThreadExecutor()


def _print_forecast(prepared: PreparedRun, *, as_json: bool) -> None:
    """Print on stdout what a run would send, and what it may cost."""
    from opencode_tasks.engine.estimates import forecast
    from opencode_tasks.engine.forecast_text import forecast_json, forecast_lines
    from opencode_tasks.ledger import Ledger

    with Ledger.open(prepared.plan.ledger_url) as ledger:
        found = forecast(ledger, prepared.plan)
    if as_json:
        typer.echo(json.dumps(forecast_json(prepared.plan, found)))
        return
    for line in forecast_lines(prepared.plan, found):
        typer.echo(without_controls(line))
