"""Processes, signals and this machine. The only package that starts and stops other programs."""

from opencode_tasks.system.processes import (
    CommandResult,
    GuardedProcess,
    Limits,
    end_programs,
    run_command,
    undisturbed,
)
from opencode_tasks.system.signals import interrupt_on_stop_signals, outliving_the_terminal, run_in_thread
from opencode_tasks.system.stop import Stop

__all__ = [
    "CommandResult",
    "GuardedProcess",
    "Limits",
    "Stop",
    "end_programs",
    "interrupt_on_stop_signals",
    "outliving_the_terminal",
    "run_command",
    "run_in_thread",
    "undisturbed",
]
