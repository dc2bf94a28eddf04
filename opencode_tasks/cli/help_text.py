"""Help of the commands in plain text, the options of a command under the headings of their groups.

Typer's own grouped help needs half a second to load (rich, Markdown and syntax highlighting).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import typer
from typer.core import TyperCommand
from typer.main import get_command

from opencode_tasks.plan.option_declarations import Group

ARGUMENTS, OTHER = "Arguments", "Options"
SECTIONS = (ARGUMENTS, *get_args(Group), OTHER)
HELP = ("-h", "--help")
# The type of an argument, which its description says.
TYPE = " <"
WIDTH = 100
CONTEXT: dict[str, Any] = {"help_option_names": list(HELP), "max_content_width": WIDTH}


class Command(TyperCommand):
    """A command whose help has a section for each group of options."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line: a required argument by its name alone, as most programs do."""
        pieces: list[str] = super().collect_usage_pieces(ctx)
        return [piece[1:-1] if piece.startswith("{") else piece for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections in the order of ``SECTIONS``."""
        for title, records in records_by_section(self, ctx).items():
            with formatter.section(title):
                formatter.write_dl(records)


def records_by_section(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Spelling and meaning of each argument and option, under the titles of ``SECTIONS`` in their order."""
    found: dict[str, list[tuple[str, str]]] = {title: [] for title in SECTIONS}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            spelling, meaning = record
            section = _section(parameter)
            found[section].append(
                (spelling.partition(TYPE)[0] if section == ARGUMENTS else spelling, meaning)
            )
    return {title: records for title, records in found.items() if records}


def print_help(app: typer.Typer, arguments: Sequence[str]) -> bool:
    """Print the help that ``[COMMAND] --help`` asks for; False for any other arguments.

    Typer would load pydantic first, to convert the value of ``--help``: four tenths of a second.
    """
    if not arguments or len(arguments) > len(("COMMAND", "--help")) or arguments[-1] not in HELP:
        return False
    group: Any = get_command(app)
    context = typer.Context(group, info_name=app.info.name, **CONTEXT)
    if len(arguments) == 1:
        typer.echo(group.get_help(context))
        return True
    command = group.get_command(context, arguments[0])
    if command is None:
        return False
    typer.echo(command.get_help(typer.Context(command, info_name=arguments[0], parent=context, **CONTEXT)))
    return True


def _section(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return ARGUMENTS
    return getattr(parameter, "rich_help_panel", None) or OTHER
