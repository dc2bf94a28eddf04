"""Processes, signals and this machine. The only package that starts and stops other programs."""

from opencode_tasks.system.processes import CommandResult, GuardedProcess, end_programs, run_command
from opencode_tasks.system.signals import (
    defer_stop,
    ignore_stop_signals,
    install_stop_handlers,
    restore_sigterm_handler,
)

__all__ = [
    "CommandResult",
    "GuardedProcess",
    "defer_stop",
    "end_programs",
    "ignore_stop_signals",
    "install_stop_handlers",
    "restore_sigterm_handler",
    "run_command",
]
