"""Signals that stop this process: SIGINT and SIGTERM raise KeyboardInterrupt in the main thread."""

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

# File name prefix of the code of Python's import machinery.
IMPORT_MACHINERY = "<frozen importlib"
RESEND_DELAY_S = 0.02
# A database that does not answer must not prevent a stop.
MAX_DATABASE_DELAY_S = 3.0

# Number of ``defer_stop`` blocks that the main thread is in.
_deferrals = 0


def install_stop_handlers(on_stop: Callable[[], None] | None = None) -> None:
    """Make SIGTERM raise KeyboardInterrupt as SIGINT does. Services and containers are stopped by SIGTERM.

    Both signals are deferred while the main thread imports a module. Raised in the import machinery,
    the exception can leave the global import lock held: CPython 3.11 acquires it before its ``try``,
    and drops what is raised in the callback that acquires it. Every thread that imports something
    would then wait forever. Raised in the code of a module, the exception can be lost: modules in C
    (Cython's memory views) and bare ``except`` clauses swallow it, and the run would continue.

    Both are also deferred for up to ``MAX_DATABASE_DELAY_S`` while the main thread is in SQLAlchemy:
    its pool has locks that other threads need, and it logs an interrupted close of a connection as an
    error. If Python drops the KeyboardInterrupt (raised in a ``__del__`` or in the callback of a weak
    reference), it is raised again. ``defer_stop`` marks further steps that must not be interrupted.

    Args:
        on_stop: Called in the main thread for each signal as soon as it arrives. It must not raise.
    """
    handler = _StopHandler(on_stop)
    signal.signal(signal.SIGTERM, handler)
    # A shell that starts a process in the background may have set SIGINT to be ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, handler)
    sys.unraisablehook = handler.unraisable


def ignore_stop_signals() -> None:
    """Ignore SIGINT and SIGTERM from now on: this process ends. For the main thread."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _StopHandler:
    """Signal handler that raises one KeyboardInterrupt for all signals of a deferral."""

    def __init__(self, on_stop: Callable[[], None] | None) -> None:
        self._on_stop = on_stop
        self._timer: Timer | None = None
        self._number = signal.SIGINT
        self._first_at: float | None = None
        self._previous_hook = sys.unraisablehook

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._number = signal.Signals(number)
        if self._on_stop is not None:
            self._on_stop()
        if self._must_wait(frame):
            self._resend_later()
        else:
            self._first_at = None
            raise KeyboardInterrupt

    def unraisable(self, dropped: sys.UnraisableHookArgs) -> None:
        """Raise a dropped KeyboardInterrupt again; pass other exceptions to the previous hook."""
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            self._resend_later()
        else:
            self._previous_hook(dropped)

    def _must_wait(self, frame: FrameType | None) -> bool:
        if _deferrals or _is_importing(frame):
            return True
        if self._first_at is None:
            self._first_at = time.monotonic()
        is_long = time.monotonic() - self._first_at >= MAX_DATABASE_DELAY_S
        return not is_long and _is_in_sqlalchemy(frame)

    def _resend_later(self) -> None:
        if self._timer is None:
            self._timer = Timer(RESEND_DELAY_S, self._resend)
            self._timer.daemon = True
            self._timer.start()

    def _resend(self) -> None:
        self._timer = None
        os.kill(os.getpid(), self._number)


def _is_importing(frame: FrameType | None) -> bool:
    return any(outer.f_code.co_filename.startswith(IMPORT_MACHINERY) for outer, _ in walk_stack(frame))


def _is_in_sqlalchemy(frame: FrameType | None) -> bool:
    return any(
        str(outer.f_globals.get("__name__")).startswith("sqlalchemy.") for outer, _ in walk_stack(frame)
    )


@contextmanager
def defer_stop() -> Generator[None]:
    """Defer a stop until the block ends, without a time limit: for short steps of the main thread."""
    global _deferrals  # noqa: PLW0603  a process has one main thread
    counted = current_thread() is main_thread()
    _deferrals += counted
    try:
        yield
    finally:
        _deferrals -= counted


@contextmanager
def restore_sigterm_handler() -> Generator[None]:
    """Restore the SIGTERM handler when the block ends, in case a library replaces it in the block."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Only the main thread can set handlers, so in other threads nothing has changed.
        if current_thread() is main_thread():
            signal.signal(signal.SIGTERM, before)
