"""Write the generated parts of the documentation: ``python docs/generate.py`` (``--check`` only compares)."""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import opencode_tasks
from opencode_tasks import errors, testing
from opencode_tasks.flow.blocks import OpenCodeAgent, OpenCodeCredentials
from opencode_tasks.frames.columns import OUTPUT, RESPONSE, Column
from opencode_tasks.ledger.views import MEANINGS, VIEWS
from opencode_tasks.policy import Fail, Limits, Pause, Retry, Skip, decide
from opencode_tasks.settings import Settings

DOCS = Path(__file__).parent
BEGIN, END = "<!-- generated: {} -->\n", "<!-- end -->\n"
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
    """The decision after an attempt, in words."""
    match decide(error, attempt, NOW, Limits()):
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
    """What ``policy.decide`` says after the first, second and third attempt that ends so."""
    lines = ["| exception | with | 1st | 2nd | 3rd |", "|---|---|---|---|---|"]
    for note, error in EXAMPLES:
        cells = [shown(error, attempt) for attempt in (1, 2, 3)]
        lines.append(" | ".join([f"| `{type(error).__name__}`", note, *cells]) + " |")
    return "\n".join(lines) + "\n"


def views() -> str:
    """Each view of the ledger, and what its columns mean."""
    parts: list[str] = []
    for view in VIEWS:
        rows = "\n".join(f"| `{name}` | {MEANINGS[name]} |" for name in view.columns)
        parts.append(
            f"## `{view.name}`\n\nA line is {view.line}.\n\n| column | meaning |\n|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


COMMANDS = (
    "setup",
    "doctor",
    "annotate",
    "resume",
    "runs",
    "show",
    "export",
    "report",
    "purge",
    "local-model",
)
HELP_WIDTH = 100


def commands() -> str:
    """What ``--help`` of each command prints, at a fixed width."""
    program = Path(sys.executable).with_name("opencode-tasks")
    # Not the colours and the width of whoever runs this.
    env = os.environ | {"COLUMNS": str(HELP_WIDTH), "TERMINAL_WIDTH": str(HELP_WIDTH), "NO_COLOR": "1"}
    parts: list[str] = []
    for name in ((), *((command,) for command in COMMANDS)):
        asked = [str(program), *name, "--help"]
        told = subprocess.run(asked, env=env, capture_output=True, text=True, timeout=120, check=True).stdout
        text = "\n".join(line.rstrip() for line in told.strip().splitlines())
        parts.append(f"## {' '.join(('opencode-tasks', *name))}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def columns() -> str:
    """The columns that OUTPUT adds."""
    field = Column(name="*a field of the schema*", dtype="object", meaning="With `--schema`: its own type.")
    lines = [RESPONSE, field, *(column for column in OUTPUT if column is not RESPONSE)]
    rows = "\n".join(f"| {_code(line.name)} | {line.dtype} | {line.meaning} |" for line in lines)
    return f"| column | dtype | meaning |\n|---|---|---|\n{rows}\n"


def _code(name: str) -> str:
    return name if name.startswith("*") else f"`{name}`"


def errors_page() -> str:
    """Each exception: how it is made, its ``error_type``, what becomes of the row, what it says."""
    parts: list[str] = []
    for error in [errors.OpenCodeError, *errors.OpenCodeError.__subclasses__()]:
        parameters = list(inspect.signature(error).parameters.values())
        made = ", ".join(
            one.name if one.default is one.empty else f"{one.name}={one.default!r}" for one in parameters
        )
        known = [example for _, example in EXAMPLES if type(example) is error]
        kind = f"`error_type` `{known[0].error_type}`, d" if known else "D"
        doc = inspect.cleandoc(error.__doc__ or "").replace("``", "`")
        parts.append(
            f"## `{error.__name__}`\n\n`{error.__name__}({made})`\n\n"
            f"{kind}isposition `{error.disposition}`.\n\n{doc}\n"
        )
    return "\n".join(parts)


def settings_table() -> str:
    """The environment variables that are settings."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        lines.append(f"| `OPENCODE_TASKS_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def blocks() -> str:
    """The fields of the Prefect blocks."""
    parts: list[str] = []
    for block in (OpenCodeCredentials, OpenCodeAgent):
        told, _, _ = inspect.cleandoc(block.__doc__ or "").partition("\n\n>>>")
        own = {name: field for name, field in block.model_fields.items() if name in block.__annotations__}
        rows = "\n".join(f"| `{name}` | {field.description} |" for name, field in own.items())
        slug = block.get_block_type_slug()
        parts.append(
            f"## `{block.__name__}`\n\n{told.replace('``', '`')}\n\nBlock type `{slug}`.\n\n"
            f"| field | meaning |\n|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


def python_api() -> str:
    """Directives for the public names of the package that are no exceptions."""
    names = [name for name in opencode_tasks.__all__ if not is_exception(opencode_tasks, name)]
    return directives(opencode_tasks, names)


def python_errors() -> str:
    """Directives for every exception, by the shortest name under which it can be imported."""
    exported = [name for name in opencode_tasks.__all__ if is_exception(opencode_tasks, name)]
    others = [name for name in public_names(errors) if name not in exported and is_exception(errors, name)]
    return directives(opencode_tasks, exported) + directives(errors, others)


def python_testing() -> str:
    """Directives for the public names of the package for tests."""
    return directives(testing, public_names(testing))


def directives(module: ModuleType, names: list[str]) -> str:
    """What mkdocstrings replaces by the signature and the docstring of each name."""
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


PARTS = {
    ("reference/command-line.md", "commands"): commands,
    ("reference/columns.md", "columns"): columns,
    ("reference/errors.md", "errors"): errors_page,
    ("reference/python-api.md", "python api"): python_api,
    ("reference/python-errors.md", "python errors"): python_errors,
    ("reference/python-testing.md", "python testing"): python_testing,
    ("reference/settings.md", "settings"): settings_table,
    ("reference/blocks.md", "blocks"): blocks,
    ("explanation/retry-and-pause.md", "decisions"): decision_table,
    ("reference/ledger.md", "views"): views,
}


def filled(text: str, name: str, part: str) -> str:
    """The page with the part between its marks."""
    before, _, rest = text.partition(BEGIN.format(name))
    _, _, after = rest.partition(END)
    return before + BEGIN.format(name) + part + END + after


def main() -> int:
    """Write, or with ``--check`` compare; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the pages are up to date")
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
