"""``opencode-tasks choose``: the cheapest model whose labels are good enough."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opencode_tasks.cli import exit_codes as exits
from opencode_tasks.cli.command_options import takes_input
from opencode_tasks.cli.help_text import Command
from opencode_tasks.cli.html_option import HtmlOption, check_folders, write_page
from opencode_tasks.plan.option_signatures import COMMAND, DATASET

if TYPE_CHECKING:
    # pandas behind these takes seconds to load, and --help must be fast.
    from opencode_tasks.cli.display import Display
    from opencode_tasks.cli.stop_notice import StopNotice
    from opencode_tasks.engine.choose import Choice, Race, Standing
    from opencode_tasks.system import Stop

DEFAULT_TARGET = 0.9
_NAMES = (
    *(
        "gold",
        "prompt_column",
        "template",
        "system",
        "system_column",
        "file",
        "examples",
        "schema",
        "choices",
    ),
    *("agent", "credentials", "mcp_server", "allow_tool", "deny_tool"),
    *("opencode_config", "opencode_bin", "work_dir"),
    *("encoding", "delimiter", "database", "concurrency", "requests_per_minute", "tokens_per_minute"),
    *(
        "timeout",
        "first_event_timeout",
        "stall_timeout",
        "tool_timeout",
        "max_attempts",
        "max_repairs",
        "max_cost",
    ),
    *("max_row_cost", "votes", "ledger"),
)
_OWN: Mapping[str, tuple[Any, Any]] = {
    "model": (
        Annotated[
            list[str],
            typer.Option(
                metavar="PROVIDER/MODEL[#VARIANT]",
                help="Model to measure, with its variant (effort). Repeatable; at least two.",
                show_default=False,
            ),
        ],
        ...,
    ),
    "target": (
        Annotated[
            float,
            typer.Option(
                metavar="SHARE", help="Share of correct labels that is good enough.", show_default=True
            ),
        ],
        DEFAULT_TARGET,
    ),
    "rows": (
        Annotated[
            int | None,
            typer.Option(
                metavar="N",
                help="Most rows that each model is asked, drawn at random. Default: all rows with a known "
                "answer.",
                show_default=False,
            ),
        ],
        None,
    ),
    "html": (HtmlOption, None),
}
_OPTIONS = {name: DATASET[name] for name in _NAMES}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("choose", cls=Command)(choose)


@takes_input((*_OPTIONS.values(), COMMAND["as_json"]), _OWN)
def choose(**values: Any) -> int:
    """Measure several models on rows with known answers, and name the cheapest that is good enough.

    Each model is asked the same rows, drawn at random: first 20, then 40, 80 and so on. A model that cannot
    win any more is dropped in between: it is surely below the target, or another one reaches the target and
    surely costs less. The price of a correct label is what all rows cost, with reasoning, repairs and failed
    attempts, for each right answer. The answers stay in the ledger, so that annotate does not pay for
    them again. The exit code is 1 if no model reaches the target.

    \b
    Examples:
      opencode-tasks choose reviews.csv --gold human --choices positive,negative \\
          --template "Positive or negative? {text}" --target 0.9 --html choice.html \\
          --model anthropic/claude-haiku-4-5 --model openai/gpt-5-mini#low
    """  # noqa: D301  click reads the character \b
    from opencode_tasks.cli.display import Display
    from opencode_tasks.cli.stop_notice import StopNotice
    from opencode_tasks.engine.choice_text import annotate_command, choice_json, choice_lines
    from opencode_tasks.settings import settings

    as_json, html, given = values.pop("as_json"), values.pop("html"), dict(values)
    check_folders(html)
    notice = StopNotice(Display(grace_s=settings().grace), can_resume=False)

    def run() -> int:
        with contextlib.ExitStack() as stack:
            display = stack.enter_context(notice.display)
            display.start()
            race, task = _prepare(stack, notice, values)
            found = _run(notice, race)
            if found is None:
                return exits.PAUSED
            display.finish()
            command = annotate_command(given, found, _OPTIONS)
            if as_json:
                fields = [one.field for one in race.gold]
                typer.echo(json.dumps(choice_json(found, fields, command)))
            else:
                typer.echo("\n".join(choice_lines(found, command)))
            if html is not None:
                write_page(_page(found, task, given["input"], command), html)
            return exits.COMPLETED if found.chosen is not None else exits.SOME_FAILED

    return notice.run(run)


def _prepare(
    stack: contextlib.ExitStack, notice: StopNotice, values: dict[str, Any]
) -> tuple[Race, Mapping[str, str]]:
    """Check input and options, and say what is measured; the race, and what the models are asked."""
    from opencode_tasks.engine.choose import Race, gold_positions
    from opencode_tasks.errors import InputError
    from opencode_tasks.ledger import ledger_argument
    from opencode_tasks.local_model import local_provider
    from opencode_tasks.opencode.server_pool import server_pool
    from opencode_tasks.orchestration.block_resolver import BlockResolver
    from opencode_tasks.plan.candidates import read_choices
    from opencode_tasks.quality.gold import require_extra
    from opencode_tasks.system import Stop

    require_extra("choose")
    display, models, target = notice.display, values.pop("model"), values.pop("target")
    most = values.pop("rows")
    stack.callback(server_pool.close)
    base_config = stack.enter_context(local_provider(models, display.say))
    choices = read_choices(
        values.pop("input"),
        models,
        target=target,
        resolver=BlockResolver(),
        base_config=base_config,
        **values,
    )
    known = gold_positions(choices.frame, choices.gold)
    if most is not None and most < 1:
        raise InputError((f"--rows: {most} is not at least 1",))
    if not known:
        columns = ", ".join(repr(one.column) for one in choices.gold)
        raise InputError((f"--gold: no row has a known answer in {columns}",))
    rows = min(len(known), most or len(known))
    frame = choices.rows_at(known)
    for candidate in choices.candidates:
        # Every model is checked before the first one is paid.
        choices.check(candidate, frame)
    display.say(
        f"{len(known)} rows have a known answer; up to {rows} are sent to each of {len(models)} models"
    )
    stop = Stop()
    notice.started(stop, ledger_argument(choices.options.ledger))
    race = Race(
        frame=frame,
        gold=choices.gold,
        candidates=choices.candidates,
        target=target,
        rows=rows,
        ledger_url=choices.ledger_url,
        max_cost=values["max_cost"],
        plan_of=choices.plan_of,
        run=_runner(display, stop),
        on_stage=lambda count, standings: _say_stage(display, count, standings),
    )
    return race, choices.task


def _page(found: Choice, task: Mapping[str, str], source: str, command: str | None) -> str:
    from opencode_tasks.domain.url_secrets import without_url_secrets
    from opencode_tasks.reports.choice_page import choice_page

    return choice_page(
        found,
        task=task,
        command=None if command is None else without_url_secrets(command),
        now=datetime.now(UTC),
        source=without_url_secrets(source),
    )


def _runner(display: Display, stop: Stop) -> Callable[..., str]:
    """The function that executes a plan on threads, shows its progress and returns its run."""
    from opencode_tasks.engine.run import RunEvent
    from opencode_tasks.engine.thread_executor import ThreadExecutor
    from opencode_tasks.orchestration.annotate import execute_here
    from opencode_tasks.plan.run_context import RunContext

    def run(plan: Any, frame: Any, candidate: Any) -> str:
        def show(event: RunEvent) -> None:
            display.show(replace(event, part=candidate.name if event.part is None else event.part))

        context = RunContext(stop=stop, started_by="choose")
        return execute_here(plan, frame, context=context, executor=ThreadExecutor(), on_event=show).run_id

    return run


def _run(notice: StopNotice, race: Race) -> Choice | None:
    """Measure the candidates; None if the budget was reached before one had won.

    Raises CommandStopped after a stop.
    """
    from opencode_tasks.engine.choose import choose as run_race
    from opencode_tasks.errors import RunPausedError

    display = notice.display
    try:
        return run_race(race)
    except KeyboardInterrupt:
        raise notice.stopped() from None
    except RunPausedError as paused:
        display.finish()
        display.say(f"stopped by --max-cost: {paused.message}")
        display.say("answers so far are in the ledger: run the same command with a higher --max-cost")
        return None


def _say_stage(display: Display, count: int, standings: Sequence[Standing]) -> None:
    from opencode_tasks.engine.choice_text import error_lines, standing_lines

    display.say(f"after {count} rows:")
    for line in (*standing_lines(standings), *error_lines(standings)):
        display.say(f"  {line}")
