"""The reaction of a command to Ctrl-C and SIGTERM, as soon as the signal arrives."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NoReturn

from opencode_tasks.system import end_programs, ignore_stop_signals

if TYPE_CHECKING:
    from opencode_tasks.cli.display import Display

# Guards that need longer than this end their programs after the command.
END_LIMIT_S = 8.0
INTERRUPTED = 130


class StopNotice:
    """Called by the signal handler in the main thread. ``is_stopping`` is True from the first signal on.

    ``is_explained``: the command has said that it was interrupted.
    """

    def __init__(self) -> None:
        self.is_stopping: bool = False
        self.is_explained: bool = False
        self._is_starting = False
        self._display: Display | None = None
        self._actions: list[Callable[[], None]] = []

    @contextmanager
    def shown_by(self, display: Display) -> Generator[None]:
        """Use ``display`` for a stop that comes in this context. The command starts, until ``started``."""
        self._display, self._is_starting = display, True
        try:
            yield
        finally:
            self._display, self._is_starting = None, False
            self._actions.clear()

    def started(self) -> None:
        """From now on rows can be in flight: a stop raises KeyboardInterrupt and does not end the process."""
        self._is_starting = False

    def add(self, action: Callable[[], None]) -> None:
        """Call ``action`` at the first signal, up to the end of the context of the display.

        It runs in a signal handler: it must return at once.
        """
        self._actions.append(action)

    def __call__(self) -> None:
        """Show the stop and call the actions; nothing happens for a second signal.

        Ends the process if the command starts: there is nothing to record, and what loads and starts
        (Prefect, opencode, Ray) cannot be interrupted for many seconds.
        """
        if self.is_stopping:
            return
        self.is_stopping = True
        # A signal handler must not raise, whatever the terminal does.
        with suppress(Exception):
            for action in self._actions:
                action()
            if self._display is not None:
                self._display.stopping()
        if self._is_starting:
            self._end_process()

    def _end_process(self) -> NoReturn:
        try:
            ignore_stop_signals()
            end_programs(END_LIMIT_S)
            if self._display is not None:
                self._display.finish()
                self._display.say("interrupted: no row was sent; to start again, run the same command")
        finally:
            os._exit(INTERRUPTED)


stop_notice: Final = StopNotice()
