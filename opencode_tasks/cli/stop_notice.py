"""The reaction of ``annotate``, ``choose`` and ``resume`` to Ctrl-C, SIGTERM and SIGHUP."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.system import Stop, end_programs, run_in_thread
from opencode_tasks.system.signals import INTERRUPTED

if TYPE_CHECKING:
    from opencode_tasks.cli.display import Display

T = TypeVar("T")

# Guards that need longer than this end their programs after the command.
END_LIMIT_S = 8.0


class CommandStopped(Exception):
    """The command was stopped and has said so."""


class StopNotice:
    """The lines and the actions of a command at a signal.

    While the command starts, the process ends at once: there is nothing to record, and what loads and
    starts (Prefect, opencode, Ray) may take many seconds. After ``started`` the run is asked to end. With
    ``can_resume`` False, only the same command continues it.
    """

    def __init__(self, display: Display, *, can_resume: bool = True) -> None:
        self.display = display
        self._can_resume = can_resume
        self.is_stopping: bool = False
        self._stop: Stop | None = None
        self._ledger = ""
        self._is_explained = False

    def run(self, command: Callable[[], T]) -> T:
        """Return or raise what ``command`` does in its own thread. For the main thread."""
        return run_in_thread(command, on_stop=self._stop_command, on_kill=self._explain)

    def started(self, stop: Stop, ledger: str) -> None:
        """From now on rows can be in flight: a signal requests ``stop`` and does not end the process.

        ``ledger`` is that of ``ledger_argument``.
        """
        self._ledger, self._stop = ledger, stop
        if self.is_stopping:
            raise KeyboardInterrupt

    def stopped(self) -> CommandStopped:
        """Say how to continue. The error is for the caller to raise."""
        self._explain()
        return CommandStopped()

    def _stop_command(self) -> None:
        self.is_stopping, stop = True, self._stop
        if stop is not None:
            stop.request()
        # The command prints nothing between these lines.
        with self.display.lock:
            # A terminal that is gone must not prevent the stop.
            with suppress(Exception):
                self.display.stopping()
            if stop is None:
                # Reports of other threads about programs that end are no news.
                logging.disable()
                end_programs(END_LIMIT_S)
                self._explain()
                os._exit(INTERRUPTED)

    def _explain(self) -> None:
        if self._is_explained:
            return
        self._is_explained = True
        with suppress(Exception):
            self.display.finish()
            if self._stop is None:
                self.display.say("interrupted: no row was sent; to start again, run the same command")
                return
            resume = f"run opencode-tasks resume{self._ledger}, or " if self._can_resume else ""
            self.display.say(
                f"interrupted: finished rows are in the ledger; to continue, {resume}"
                "run the same command again:"
            )
            self.display.say(f"  {shlex.join(['opencode-tasks', *resume_arguments(sys.argv[1:])])}")


def resume_arguments(arguments: list[str]) -> list[str]:
    """The arguments that continue a command: without --refresh, which sends again, and without passwords."""
    return [without_url_secrets(word) for word in arguments if word != "--refresh"]
