"""Write the generated parts of the documentation: ``python docs/generate.py`` (``--check`` only compares)."""

from __future__ import annotations

import argparse
import inspect
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from opencode_tasks import errors
from opencode_tasks.cli.app import with_commands
from opencode_tasks.cli.help_text import CONTEXT, records_by_section
from opencode_tasks.domain.policy import Fail, Pause, Retry, RetryLimits, Skip, decide
from opencode_tasks.frames.columns import OUTPUT, RESPONSE, Column
from opencode_tasks.ledger.views import MEANINGS, VIEWS
from opencode_tasks.orchestration.blocks import OpenCodeAgent, OpenCodeCredentials
from opencode_tasks.plan.option_table import DATASET
from opencode_tasks.settings import Settings

DOCS = Path(__file__).parent
BEGIN, END = "<!-- generated: {} -->\n", "<!-- end -->\n"
DECIDE = "A row is sent again if the value of one of these options changes, because they decide the answer:"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)

GUESSED = errors.RateLimitError("n", NOW + timedelta(seconds=60))
GUESSED.reset_is_named = False
EXAMPLES: list[tuple[str, errors.OpenCodeError]] = [
    ("a reset time in 20 s", errors.RateLimitError("n", NOW + timedelta(seconds=20))),
    ("a reset time that has passed", errors.RateLimitError("n", NOW)),
    ("no reset time", GUESSED),
    ("", errors.AuthenticationError("n")),
    ("", errors.BillingError("n")),
    ("Retry-After: 7", errors.ServerError("n", retry_after=7)),
    ("no header", errors.ServerError("n")),
    ("", errors.OpenCodeTimeoutError("n")),
    ("", errors.UnknownOpenCodeError("n")),
    ("", errors.MaxOutputTokensError("n")),
    ("", errors.InvalidRequestError("n")),
    ("", errors.ContentFilteredError("n")),
    ("", errors.PermissionDeniedError("n")),
    ("", errors.StructuredOutputError("n")),
    ("", errors.BudgetExceededError("n")),
    ("", errors.SetupError("n")),
]


def shown(error: errors.OpenCodeError, attempt: int) -> str:
    """Description of the decision after an attempt."""
    match decide(error, attempt, NOW, RetryLimits()):
        case Retry(at=at):
            wait_s = (at - NOW).total_seconds()
            return f"again after {wait_s:g} s" if wait_s else "again at once"
        case Pause():
            return "pause for a person"
        case Fail():
            return "fail"
        case Skip():
            return "skip"


def decision_table() -> str:
    """The decision of ``policy.decide`` after the first, second and third attempt with an error."""
    lines = ["| exception | with | 1st | 2nd | 3rd |", "|---|---|---|---|---|"]
    for note, error in EXAMPLES:
        cells = [shown(error, attempt) for attempt in (1, 2, 3)]
        lines.append(" | ".join([f"| `{type(error).__name__}`", note, *cells]) + " |")
    return "\n".join(lines) + "\n"


def views() -> str:
    """Each view of the ledger with the meaning of its columns."""
    parts: list[str] = []
    for view in VIEWS:
        rows = "\n".join(f"| `{name}` | {MEANINGS[name]} |" for name in view.columns)
        parts.append(
            f"## `{view.name}`\n\nA line is {view.line}.\n\n| column | meaning |\n|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


def commands() -> str:
    """Each command: its usage, its description, its examples and its options."""
    group: Any = get_command(with_commands())
    context = typer.Context(group, info_name="opencode-tasks", **CONTEXT)
    return "\n".join(_command_page(command, context) for command in group.commands.values())


def _command_page(command: Any, parent: Any) -> str:
    context = typer.Context(command, info_name=command.name, parent=parent, **CONTEXT)
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    description, _, examples = inspect.cleandoc(command.help or "").partition("\b\n")
    heading, _, lines = examples.partition("\n")
    parts = [f"## `{context.command_path}`", f"`{usage}`", description.strip(), heading]
    parts.append(f"```text\n{inspect.cleandoc(lines)}\n```")
    sections = records_by_section(command, context)
    for title, records in sections.items():
        if len(sections) > 1:
            parts.append(f"**{title}**")
        rows = "\n".join(f"| {_spelling(spelling)} | {_cell(meaning)} |" for spelling, meaning in records)
        parts.append(f"| option | meaning |\n|---|---|\n{rows}")
    if command.name == "annotate":
        deciding = ", ".join(f"`{one.flag}`" for one in DATASET.values() if one.info.decides_answer)
        parts.append(f"{DECIDE} {deciding}.")
    return "\n\n".join(filter(None, parts)) + "\n"


def _spelling(record: str) -> str:
    return f"`{record.replace('|', chr(92) + '|')}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def columns() -> str:
    """The columns that OUTPUT adds to those of INPUT."""
    field = Column(name="*a field of the schema*", dtype="object", meaning="With `--schema`: its own type.")
    lines = [RESPONSE, field, *(column for column in OUTPUT if column is not RESPONSE)]
    rows = "\n".join(f"| {_code(line.name)} | {line.dtype} | {line.meaning} |" for line in lines)
    return f"| column | dtype | meaning |\n|---|---|---|\n{rows}\n"


def _code(name: str) -> str:
    return name if name.startswith("*") else f"`{name}`"


def errors_page() -> str:
    """Each exception: its constructor, its ``error_type``, its effect on the row, and its description."""
    parts: list[str] = []
    for error in [errors.OpenCodeError, *errors.OpenCodeError.__subclasses__()]:
        parameters = list(inspect.signature(error).parameters.values())
        constructor = ", ".join(
            one.name if one.default is one.empty else f"{one.name}={one.default!r}" for one in parameters
        )
        known = [example for _, example in EXAMPLES if type(example) is error]
        kind = f"`error_type` `{known[0].error_type}`, d" if known else "D"
        doc = inspect.cleandoc(error.__doc__ or "").replace("``", "`")
        parts.append(
            f"## `{error.__name__}`\n\n`{error.__name__}({constructor})`\n\n"
            f"{kind}isposition `{error.disposition}`.\n\n{doc}\n"
        )
    return "\n".join(parts)


def settings_table() -> str:
    """The settings, as environment variables."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        lines.append(f"| `OPENCODE_TASKS_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def blocks() -> str:
    """The fields of the Prefect blocks."""
    parts: list[str] = []
    for block in (OpenCodeCredentials, OpenCodeAgent):
        description, _, _ = inspect.cleandoc(block.__doc__ or "").partition("\n\n>>>")
        own = {name: field for name, field in block.model_fields.items() if name in block.__annotations__}
        rows = "\n".join(f"| `{name}` | {field.description} |" for name, field in own.items())
        slug = block.get_block_type_slug()
        parts.append(
            f"## `{block.__name__}`\n\n{description.replace('``', '`')}\n\nBlock type `{slug}`.\n\n"
            f"| field | meaning |\n|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


PARTS = {
    ("reference/command-line.md", "commands"): commands,
    ("reference/columns.md", "columns"): columns,
    ("reference/errors.md", "errors"): errors_page,
    ("reference/settings.md", "settings"): settings_table,
    ("reference/blocks.md", "blocks"): blocks,
    ("explanation/retry-and-pause.md", "decisions"): decision_table,
    ("reference/ledger.md", "views"): views,
}


def filled(text: str, name: str, part: str) -> str:
    """The page with the part between its markers."""
    before, _, rest = text.partition(BEGIN.format(name))
    _, _, after = rest.partition(END)
    return before + BEGIN.format(name) + part + END + after


def main() -> int:
    """Write the pages, or with ``--check`` compare them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only report whether the pages are up to date")
    check = parser.parse_args().check
    stale: list[str] = []
    for (page, name), part in PARTS.items():
        path = DOCS / page
        text = path.read_text(encoding="utf-8")
        new = filled(text, name, part())
        if new != text:
            stale.append(page)
            if not check:
                path.write_text(new, encoding="utf-8")
    for page in stale:
        print(f"{page}: {'out of date: run python docs/generate.py' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
