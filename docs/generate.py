"""Write the generated parts of the documentation: ``python docs/generate.py`` (``--check`` only compares)."""

from __future__ import annotations

import argparse
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
from typer.main import get_command

import opencode_tasks
from opencode_tasks import errors, testing
from opencode_tasks.cli.app import with_commands
from opencode_tasks.cli.help_text import CONTEXT, records_by_section
from opencode_tasks.domain.columns import WORK_COLUMNS
from opencode_tasks.domain.policy import AwaitPerson, Fail, Retry, RetryLimits, decide
from opencode_tasks.domain.reaction import Reaction
from opencode_tasks.frames.columns import OUTPUT, RESPONSE, Column
from opencode_tasks.ledger.views import MEANINGS, VIEWS
from opencode_tasks.orchestration.blocks import OpenCodeAgent, OpenCodeCredentials
from opencode_tasks.outcomes.limit_period import PERIODS
from opencode_tasks.outcomes.provider_errors import RULES
from opencode_tasks.plan.option_signatures import ANNOTATE, DATASET
from opencode_tasks.settings import Settings

DOCS = Path(__file__).parent
BEGIN, END = "<!-- generated: {} -->\n", "<!-- end -->\n"
SECTION = re.compile(r"[A-Z]\w+:\n")
DECIDE = "A row is sent again if the value of one of these options changes, because they decide the answer:"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)

ESTIMATED = errors.RateLimitError("n", NOW + timedelta(seconds=60))
ESTIMATED.reset_is_named = False
# The classes whose decision depends on their fields.
VARIANTS: dict[type[errors.OpenCodeError], list[tuple[str, errors.OpenCodeError]]] = {
    errors.RateLimitError: [
        ("a reset time in 20 s", errors.RateLimitError("n", NOW + timedelta(seconds=20))),
        ("a reset time in the past", errors.RateLimitError("n", NOW)),
        ("no reset time", ESTIMATED),
    ],
    errors.ServerError: [
        ("Retry-After: 7", errors.ServerError("n", retry_after=7)),
        ("no header", errors.ServerError("n")),
    ],
}


def examples(cls: Any) -> list[tuple[str, errors.OpenCodeError]]:
    """Errors of a class, each with a note on its fields."""
    return VARIANTS.get(cls) or [("", cls("n"))]


def shown(error: errors.OpenCodeError, attempt: int) -> str:
    """The decision after an attempt, as text."""
    match decide(error, attempt, NOW, RetryLimits()):
        case Retry(at=at):
            wait_s = (at - NOW).total_seconds()
            return f"again after {wait_s:g} s" if wait_s else "again at once"
        case AwaitPerson():
            return "hold for a person"
        case Fail():
            return "fail"


def decision_table() -> str:
    """The decision of ``policy.decide`` after the first, second and third attempt that ends in an error."""
    lines = ["| exception | with | 1st | 2nd | 3rd |", "|---|---|---|---|---|"]
    for cls in errors.row_error_classes():
        for note, error in examples(cls):
            cells = [shown(error, attempt) for attempt in (1, 2, 3)]
            lines.append(" | ".join([f"| `{cls.__name__}`", note, *cells]) + " |")
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
    return "\n".join(_command_page(command, parent) for command, parent in _commands_in(group, context))


def _commands_in(group: Any, context: typer.Context) -> Iterator[tuple[Any, typer.Context]]:
    """The commands of a group and of the groups in it, each with the context of its group."""
    for command in group.commands.values():
        if hasattr(command, "commands"):
            yield from _commands_in(
                command, typer.Context(command, info_name=command.name, parent=context, **CONTEXT)
            )
        else:
            yield command, context


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


def work_columns() -> str:
    """The columns that OUTPUT adds if the rows have workspaces."""
    rows = "\n".join(f"| `{line.name}` | {line.dtype} | {_work_meaning(line)} |" for line in WORK_COLUMNS)
    return f"| column | dtype | meaning |\n|---|---|---|\n{rows}\n"


def _work_meaning(column: Column) -> str:
    meaning = column.meaning.partition(": ")[2]
    return meaning[0].upper() + meaning[1:]


def _code(name: str) -> str:
    return name if name.startswith("*") else f"`{name}`"


WAITS = {"none": "retry at once", "backoff": "retry after a backoff", "until_reset": "retry after the reset"}
ACTIONS = {"hold": "hold for a person", "fail": "fail"}
GATES = {
    "none": "no change",
    "open": "opens",
    "count_failure": "one failure more",
    "close_until_reset": "closes until the reset",
    "close_until_person": "closes until a person acts",
}
CONCURRENCY = {
    "none": "no change",
    "accepted": "may grow",
    "refused": "fewer",
    "refused_if_overloaded": "fewer if overloaded",
}


def reaction_cells(reaction: Reaction) -> list[str]:
    """A reaction as cells: row, attempts, gate, rows in flight, partial text."""
    attempts = f"{reaction.max_attempts} at most" if reaction.max_attempts else "counts"
    return [
        ACTIONS.get(reaction.action) or WAITS[reaction.wait],
        attempts if reaction.uses_attempt else "does not count",
        GATES[reaction.gate],
        CONCURRENCY[reaction.concurrency],
        "kept" if reaction.keeps_partial_text else "",
    ]


def reactions() -> str:
    """The cause and the reaction of each class of row error."""
    head = ["cause", "exception", "row", "attempt", "gate", "rows in flight", "partial text"]
    lines = [head, ["---"] * len(head)]
    lines += [
        [cause(cls), f"{_link(cls)}<br>`{cls.error_type}`", *reaction_cells(cls.reaction)]
        for cls in errors.row_error_classes()
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def run_errors() -> str:
    """The meaning of each exception that is not about one row."""
    others = [cls for cls in errors.all_classes()[1:] if not issubclass(cls, errors.OpenCodeError)]
    rows = "".join(f"| {_link(cls)} | {_paragraphs(cls)[0]} |\n" for cls in others)
    return f"| exception | meaning |\n|---|---|\n{rows}"


def cause(cls: type) -> str:
    """The second paragraph of the docstring of an error class; the first if there is no second."""
    meaning, *others = _paragraphs(cls)
    return others[0] if others else meaning


def _paragraphs(cls: type) -> list[str]:
    """The text of a docstring before its sections, as Markdown."""
    paragraphs = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    texts = itertools.takewhile(lambda text: not SECTION.match(text), paragraphs)
    return [" ".join(text.replace("``", "`").split()) for text in texts]


def _link(cls: type) -> str:
    """A link to a class in the Python reference."""
    return f"[`{cls.__name__}`](python-errors.md#opencode_tasks.{cls.__name__})"


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
        description, _, _ = inspect.cleandoc(block.__doc__ or "").partition("\n\nAttributes:")
        own = {name: field for name, field in block.model_fields.items() if name in block.__annotations__}
        rows = "\n".join(f"| `{name}` | {field.description} |" for name, field in own.items())
        slug = block.get_block_type_slug()
        parts.append(
            f"## `{block.__name__}`\n\n{description.replace('``', '`')}\n\nBlock type `{slug}`.\n\n"
            f"| field | meaning |\n|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


def python_api() -> str:
    """Directives for the public names of the package that are no exceptions."""
    names = [name for name in dir(opencode_tasks) if not is_exception(opencode_tasks, name)]
    return directives(opencode_tasks, names)


def python_errors() -> str:
    """Directives for every exception, by the shortest name under which it can be imported."""
    exported = [name for name in dir(opencode_tasks) if is_exception(opencode_tasks, name)]
    others = [name for name in public_names(errors) if name not in exported and is_exception(errors, name)]
    return directives(opencode_tasks, exported) + directives(errors, others)


def options_table() -> str:
    """The keywords of ``annotate`` and ``annotate_dataset``: type and meaning."""
    lines = ["| keyword | type | meaning |", "|---|---|---|"]
    for option in (ANNOTATE | DATASET).values():
        only = "" if option.name in ANNOTATE and option.name in DATASET else _only_of(option.name)
        lines.append(f"| `{option.name}` | {_type(option.type)} | {only}{_cell(option.description)} |")
    return "\n".join(lines) + "\n"


def _only_of(name: str) -> str:
    return f"`{'annotate' if name in ANNOTATE else 'annotate_dataset'}` only. "


def _type(kind: Any) -> str:
    text = re.sub(r"\b(typing|collections\.abc|pathlib|_local)\.", "", inspect.formatannotation(kind))
    text = re.sub(r"^Optional\[(.*)\]$", r"\1 | None", text)
    return f"`{text.replace('|', chr(92) + '|')}`"


def python_testing() -> str:
    """Directives for the public names of the package for tests."""
    return directives(testing, public_names(testing))


def directives(module: ModuleType, names: list[str]) -> str:
    """A line for each name, which mkdocstrings replaces with its signature and docstring."""
    return "".join(f"::: {module.__name__}.{name}\n" for name in names)


def is_exception(module: ModuleType, name: str) -> bool:
    """Whether a public name is an exception class."""
    value = getattr(module, name)
    return isinstance(value, type) and issubclass(value, BaseException)


def public_names(module: ModuleType) -> list[str]:
    """``__all__``, or without one the public classes and functions that the module defines."""
    defined = [name for name, value in vars(module).items() if is_defined_in(module, value)]
    return list(getattr(module, "__all__", sorted(name for name in defined if not name.startswith("_"))))


def is_defined_in(module: ModuleType, value: object) -> bool:
    """Whether a value is a class or a function of this module, not one that it imports."""
    return (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__


def provider_errors() -> str:
    """One row for each rule, in the order of the rules."""
    rows = [
        "| error type | what the provider says | values in the body | status | words | who | source |",
        "|" + "---|" * 7,
    ]
    for rule in RULES:
        kind = {"context_overflow": "max_output_tokens"}.get(rule.kind, rule.kind)
        what = rule.what + ("; the run ends early" if rule.concerns_all_rows else "")
        codes = ", ".join(f"`{code}`" for code in sorted(rule.codes)) or (
            "by words" if rule.code_words else ""
        )
        statuses = ", ".join(str(status) for status in sorted(rule.statuses))
        words = "yes" if rule.words else ""
        cells = (f"`{kind}`", what, codes, statuses, words, rule.providers, f"[source]({rule.source})")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def limit_periods() -> str:
    """One row for each period of a limit, in the order of the table."""
    rows = ["| words of the message, for example | end of the limit | source |", "|" + "---|" * 3]
    rows += [f"| {period.example} | {period.what} | [source]({period.source}) |" for period in PERIODS]
    return "\n".join(rows) + "\n"


PARTS = {
    ("reference/provider-errors.md", "provider errors"): provider_errors,
    ("reference/provider-errors.md", "limit periods"): limit_periods,
    ("reference/command-line.md", "commands"): commands,
    ("reference/columns.md", "columns"): columns,
    ("reference/columns.md", "workspace columns"): work_columns,
    ("reference/errors.md", "reactions"): reactions,
    ("reference/errors.md", "run errors"): run_errors,
    ("reference/python-api.md", "python api"): python_api,
    ("reference/python-api.md", "options"): options_table,
    ("reference/python-errors.md", "python errors"): python_errors,
    ("reference/python-testing.md", "python testing"): python_testing,
    ("reference/settings.md", "settings"): settings_table,
    ("reference/blocks.md", "blocks"): blocks,
    ("explanation/retries-and-holds.md", "decisions"): decision_table,
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
