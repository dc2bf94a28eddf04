"""The reaction of a command to Ctrl-C and SIGTERM, as soon as the signal arrives."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opencode_tasks.cli.display import Display


class StopNotice:
    """Called by the signal handler in the main thread. ``is_stopping`` is True from the first signal on."""

    def __init__(self) -> None:
        self.is_stopping: bool = False
        self._display: Display | None = None
        self._actions: list[Callable[[], None]] = []

    @contextmanager
    def shown_by(self, display: Display) -> Generator[None]:
        """Use ``display`` for a stop that comes in this context."""
        self._display = display
        try:
            yield
        finally:
            self._display = None
            self._actions.clear()

    def add(self, action: Callable[[], None]) -> None:
        """Call ``action`` at the first signal, up to the end of the context of the display.

        It runs in a signal handler: it must return at once.
        """
        self._actions.append(action)

    def __call__(self) -> None:
        """Show the stop and call the actions; nothing happens for a second signal."""
        if self.is_stopping:
            return
        self.is_stopping = True
        # A signal handler must not raise, whatever the terminal does.
        with suppress(Exception):
            for action in self._actions:
                action()
            if self._display is not None:
                self._display.stopping()


stop_notice: Final = StopNotice()
