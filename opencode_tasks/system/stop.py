"""Stop: a request to end a run in order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

T = TypeVar("T")


class Stop:
    """Request to end a run, made by any thread.

    The thread of the run raises KeyboardInterrupt at the next check, as Ctrl-C does in a script: whoever
    asks for the end, the run ends in the same way. A copy in another process is a new one.
    """

    def __init__(self) -> None:
        self._event = Event()
        self._actions: list[Callable[[], None]] = []

    def __reduce__(self) -> tuple[type[Stop], tuple[()]]:
        """A new one: a request stays in its process."""
        return type(self), ()

    def request(self) -> None:
        """Ask for the end, and call the actions of ``calling`` in this thread."""
        self._event.set()
        for action in list(self._actions):
            action()

    def check(self) -> None:
        """Raise KeyboardInterrupt if the end was requested."""
        self.sleep(0.0)

    def sleep(self, seconds: float) -> None:
        """Sleep; raise KeyboardInterrupt as soon as the end is requested."""
        if self._event.wait(seconds):
            raise KeyboardInterrupt

    def checked(self, items: Iterable[T]) -> Generator[T]:
        """The items, with a check before each."""
        for item in items:
            self.check()
            yield item

    @contextmanager
    def calling(self, action: Callable[[], None]) -> Generator[None]:
        """Have a request, made before or in this context, call ``action``, which must return at once."""
        self._actions.append(action)
        try:
            if self._event.is_set():
                action()
            yield
        finally:
            self._actions.remove(action)
