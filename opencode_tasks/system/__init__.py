"""Processes, signals and this machine. The only package that starts and stops other programs."""

from opencode_tasks.system.processes import CommandResult, GuardedProcess, run_command
from opencode_tasks.system.signals import defer_stop, install_stop_handlers, restore_sigterm_handler

__all__ = [
    "CommandResult",
    "GuardedProcess",
    "defer_stop",
    "install_stop_handlers",
    "restore_sigterm_handler",
    "run_command",
]
