"""Signals that stop a command: SIGINT (Ctrl-C), SIGTERM (services, containers), SIGHUP (closed terminals)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

INTERRUPTED = 130
# ``timeout`` and some shells send a signal to the process and to its group: both are one stop.
SAME_STOP_S = 0.5


def interrupt_on_stop_signals() -> None:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread, as SIGINT does."""
    _handle_stop_signals(signal.default_int_handler)


@contextmanager
def outliving_the_terminal() -> Generator[None]:
    """Processes that this thread starts in this context do not end when the terminal is closed."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _handle_stop_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    signal.signal(signal.SIGTERM, handler)
    # A shell has background processes ignore SIGINT, and nohup has its command ignore SIGHUP.
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def run_in_thread(work: Callable[[], T], *, on_stop: Callable[[], None], on_kill: Callable[[], None]) -> T:
    """Return or raise what ``work`` does in a new thread. For the main thread, which waits for it.

    A signal interrupts only this wait, so that no lock, import or database is left in the middle. The
    first signal has ``on_stop`` called, beside ``work``. The next one (not SIGHUP), up to the end of the
    process, has ``on_kill`` called and ends the process at once, with exit code 130. Neither function must
    raise.
    """
    result: Future[T] = Future()
    # True for a signal, False for the end of the work. Its ``put`` may interrupt its ``get``.
    events: SimpleQueue[bool] = SimpleQueue()
    first_at: float | None = None

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # noqa: BLE001  raised in the main thread
            result.set_exception(error)
        events.put(False)

    def receive(number: int, _: FrameType | None) -> None:
        nonlocal first_at
        if first_at is None:
            first_at = time.monotonic()
            events.put(True)
        # The terminal and the shell each send SIGHUP, at different times: it never means "at once".
        elif number != signal.SIGHUP and time.monotonic() - first_at > SAME_STOP_S:
            # A further signal ends the process even if ``on_kill`` waits for a terminal.
            signal.signal(number, signal.SIG_DFL)
            on_kill()
            os._exit(INTERRUPTED)

    _handle_stop_signals(receive)
    Thread(target=copy_context().run, args=(run,), name="opencode-command", daemon=True).start()
    while events.get():
        on_stop()
    return result.result()


def signal_name(number: int) -> str | None:
    """The name of a signal, such as "SIGKILL"; None for another number."""
    return next((one.name for one in signal.Signals if one == number), None)
