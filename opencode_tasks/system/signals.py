"""How this process hears that it is to stop."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Timer, current_thread, main_thread
from traceback import walk_stack
from types import FrameType

# What the code of Python's own import machinery gives as its file.
IMPORT_MACHINERY = "<frozen importlib"
AGAIN_S = 0.02
# A database that does not answer must not keep anybody from stopping.
MAX_IN_DATABASE_S = 3.0

# How many ``undisturbed`` blocks the main thread is in.
_blocks = 0


def stop_as_by_ctrl_c(on_stop: Callable[[], None] | None = None) -> None:
    """Have SIGTERM, by which services and containers are stopped, raise KeyboardInterrupt as SIGINT does.

    Both wait until the main thread imports nothing. Raised in an import's own steps it can leave the
    lock of all imports held: CPython (3.11) takes it before its ``try``, and lets go what is raised
    in the callback that takes it too; each thread that imports something would then wait for ever.
    Raised in what a module does as it is loaded it can be lost: the start of modules in C (Cython's
    memory views) and bare ``except`` clauses swallow it, and the run would go on.

    They also wait, for up to ``MAX_IN_DATABASE_S``, until the main thread is out of SQLAlchemy:
    its pool has locks that other threads need, and logs what ends the closing of a connection as an
    error. Where Python has to drop the KeyboardInterrupt (raised in a ``__del__`` or in the callback
    of a weak reference), it is raised again. ``undisturbed`` names further steps not to break off.

    ``on_stop`` is called for each signal as soon as it arrives, in the main thread; it must not raise.
    """
    interrupt = _Interrupt(on_stop)
    signal.signal(signal.SIGTERM, interrupt)
    # Who starts us in the background may want SIGINT to be ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = interrupt.unraisable


class _Interrupt:
    """Raises KeyboardInterrupt, once for all signals that came while it had to be put off."""

    def __init__(self, on_stop: Callable[[], None] | None) -> None:
        self._on_stop = on_stop
        self._again: Timer | None = None
        self._number = signal.SIGINT
        self._first_at: float | None = None
        self._others = sys.unraisablehook

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._number = signal.Signals(number)
        if self._on_stop is not None:
            self._on_stop()
        if self._must_wait(frame):
            self._send_again()
        else:
            self._first_at = None
            raise KeyboardInterrupt

    def unraisable(self, dropped: sys.UnraisableHookArgs) -> None:
        """Have a KeyboardInterrupt that Python drops raised again; others are told as ever."""
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            self._send_again()
        else:
            self._others(dropped)

    def _must_wait(self, frame: FrameType | None) -> bool:
        if _blocks or _is_importing(frame):
            return True
        if self._first_at is None:
            self._first_at = time.monotonic()
        is_long = time.monotonic() - self._first_at >= MAX_IN_DATABASE_S
        return not is_long and _is_in_sqlalchemy(frame)

    def _send_again(self) -> None:
        if self._again is None:
            self._again = Timer(AGAIN_S, self._send)
            self._again.daemon = True
            self._again.start()

    def _send(self) -> None:
        self._again = None
        os.kill(os.getpid(), self._number)


def _is_importing(frame: FrameType | None) -> bool:
    return any(one.f_code.co_filename.startswith(IMPORT_MACHINERY) for one, _ in walk_stack(frame))


def _is_in_sqlalchemy(frame: FrameType | None) -> bool:
    return any(str(one.f_globals.get("__name__")).startswith("sqlalchemy.") for one, _ in walk_stack(frame))


@contextmanager
def undisturbed() -> Generator[None]:
    """Put a stop off until this block is left: for short steps of the main thread, without a bound."""
    global _blocks  # noqa: PLW0603  a process has one main thread
    counted = current_thread() is main_thread()
    _blocks += counted
    try:
        yield
    finally:
        _blocks -= counted


@contextmanager
def same_sigterm() -> Generator[None]:
    """On leaving, SIGTERM is handled as on entering, whatever handler a library has set meanwhile."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Handlers are set in the main thread alone, so elsewhere nothing has changed.
        if current_thread() is main_thread():
            signal.signal(signal.SIGTERM, before)
