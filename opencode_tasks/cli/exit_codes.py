"""Exit codes, and how an error is told on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import Abort, TyperException

from opencode_tasks.errors import InputError, OpenCodeError, RunPausedError, SetupError

COMPLETED, SOME_FAILED, WRONG_USE, MACHINERY_FAILED, PAUSED, INTERRUPTED = 0, 1, 2, 70, 75, 130
MESSAGE_LIMIT = 600
TRACEBACK_VARIABLE = "OPENCODE_TASKS_TRACEBACK"


def guarded(app: typer.Typer) -> int:
    """Run the application and turn whatever it raises into a message and an exit code."""
    try:
        code: Any = app(standalone_mode=False)
    except Abort:
        return tell("interrupted", INTERRUPTED)
    except TyperException as error:
        return _shown(error)
    except KeyboardInterrupt:
        return tell("interrupted", INTERRUPTED)
    except BrokenPipeError:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  until the process ends
        return COMPLETED
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        return told(error)
    return code if isinstance(code, int) else COMPLETED


def _shown(error: TyperException) -> int:
    # What typer raises shows itself with its command's usage; its public class does not say so.
    show: Callable[[], None] | None = getattr(error, "show", None)
    if show is None:
        return tell(error.format_message(), WRONG_USE)
    show()
    return WRONG_USE


def told(error: Exception) -> int:
    """Say on stderr what went wrong and what to do; the exit code."""
    if isinstance(error, InputError):
        for fault in error.faults:
            tell(fault, WRONG_USE)
        return WRONG_USE
    if isinstance(error, RunPausedError):
        tell(str(error), PAUSED)
        more = " --max-cost USD" if error.error_type == "budget_exceeded" else ""
        return tell(f"to go on: opencode-tasks resume {error.run_id}{more}", PAUSED)
    if isinstance(error, SetupError):
        tell(error.raw_message, MACHINERY_FAILED)
        return tell(f"what to do: {error.hint}", MACHINERY_FAILED) if error.hint else MACHINERY_FAILED
    if isinstance(error, OpenCodeError):
        return tell(str(error), MACHINERY_FAILED)
    message = f"{type(error).__name__}: {error}"[:MESSAGE_LIMIT]
    return tell(f"{message} (set {TRACEBACK_VARIABLE}=1 for the traceback)", MACHINERY_FAILED)


def tell(message: str, code: int) -> int:
    """One line on stderr."""
    typer.echo(f"opencode-tasks: {message}", err=True)
    return code
