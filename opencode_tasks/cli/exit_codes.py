"""Exit codes, and the lines on stderr that explain an error."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import typer
from typer.exceptions import Abort, TyperException

from opencode_tasks.cli.stop_notice import CommandStopped
from opencode_tasks.domain.text import none_of, value_fault
from opencode_tasks.errors import InputError, OpenCodeTasksError, RunPausedError, SetupError
from opencode_tasks.outcomes.message_cleanup import one_line, presentable
from opencode_tasks.system.signals import INTERRUPTED

COMPLETED, SOME_FAILED, USAGE_ERROR, INTERNAL_ERROR, PAUSED = 0, 1, 2, 70, 75
TRACEBACK_VARIABLE = "OPENCODE_TASKS_TRACEBACK"
SETUP_LIMIT = 1000
UNKNOWN_COMMAND = re.compile("No such command '(.*?)'")


def guarded(app: typer.Typer) -> int:
    """Run the application; print what it raises as lines on stderr and return the exit code."""
    try:
        code: Any = app(standalone_mode=False)
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]
            sys.stdout.flush()
        if code == INTERRUPTED:
            # typer turns a KeyboardInterrupt into this code.
            return print_line("interrupted", INTERRUPTED)
    except CommandStopped:
        code = INTERRUPTED
    except (Abort, KeyboardInterrupt):
        return print_line("interrupted", INTERRUPTED)
    except TyperException as error:
        return _usage_error(error)
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        return explain(error)
    return code if isinstance(code, int) else COMPLETED


def _usage_error(error: TyperException) -> int:
    """One line for a wrong option; the help for a command without arguments."""
    context: Any = getattr(error, "ctx", None)
    show: Callable[[], None] | None = getattr(error, "show", None)
    message = _value_fault(error) or _name_fault(error, context) or error.format_message()
    if show is not None and (context is None or not message or "\n" in message):
        show()
        return USAGE_ERROR
    command = f" (see: {context.command_path} --help)" if context is not None else ""
    return print_line(f"{message.rstrip('.')}{command}", USAGE_ERROR)


def _value_fault(error: TyperException) -> str | None:
    """The fault of the value of an option or argument; None for any other error.

    typer has pydantic check the values.
    """
    parameter: Any = getattr(error, "param", None)
    find: Callable[[], list[Mapping[str, Any]]] | None = getattr(error.__cause__, "errors", None)
    if parameter is None or find is None:
        return None
    first = find()[0]
    if (choices := parameter.type_descriptor.choices) is not None:
        fault = none_of(str(first["input"]), [str(getattr(one, "value", one)) for one in choices])
    else:
        fault = value_fault(first)
    is_argument = parameter.param_type_name == "argument"
    name = parameter.display_name_raw if is_argument else max(parameter.opts, key=len)
    return f"{name}: {fault}"


def _name_fault(error: TyperException, context: Any) -> str | None:
    """The fault of an unknown option or command, with the nearest one; None for any other error."""
    if (option := getattr(error, "option_name", None)) and hasattr(error, "possibilities"):
        return f"No such option: {option}{_suggestion(getattr(error, 'possibilities', None) or [])}"
    commands: Mapping[str, Any] | None = getattr(getattr(context, "command", None), "commands", None)
    found = UNKNOWN_COMMAND.match(error.format_message())
    if not found or not commands:
        return None
    near = _suggestion(get_close_matches(found[1], commands))
    return f"No such command {found[1]!r}{near or '; the commands are ' + ', '.join(commands)}"


def _suggestion(near: Sequence[str]) -> str:
    return f"; did you mean {near[0]}?" if near else ""


def explain(error: Exception) -> int:
    """Print on stderr what is wrong and what to do; return the exit code."""
    if isinstance(error, InputError):
        for fault in error.faults:
            print_line(one_line(fault), USAGE_ERROR)
        return USAGE_ERROR
    if isinstance(error, RunPausedError):
        return print_line(presentable(str(error)), PAUSED)
    if isinstance(error, SetupError):
        print_line(presentable(error.raw_message, SETUP_LIMIT), INTERNAL_ERROR)
        is_new = bool(error.hint) and error.hint not in error.raw_message
        return print_line(f"fix: {error.hint}", INTERNAL_ERROR) if is_new else INTERNAL_ERROR
    if isinstance(error, OpenCodeTasksError):
        return print_line(presentable(str(error)), INTERNAL_ERROR)
    return print_line(f"{_cause(error)} (set {TRACEBACK_VARIABLE}=1 for the traceback)", INTERNAL_ERROR)


def _cause(error: Exception) -> str:
    """Describe an error of a library: the resource that failed, and its message without details."""
    library = type(error).__module__.partition(".")[0]
    message = presentable(str(error))
    if library == "sqlalchemy":
        return f"the ledger or a database cannot be used: {message}"
    if library in ("httpx", "httpcore") or "Failed to reach API" in message:
        return f"the Prefect API does not answer: {message.replace('Failed to reach API at ', '')}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {message}"


def print_line(message: str, code: int) -> int:
    """Print one line on stderr; return ``code``."""
    typer.echo(f"opencode-tasks: {message}", err=True)
    return code
