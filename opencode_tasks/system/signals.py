"""Signals that stop a command: SIGINT (Ctrl-C), and SIGTERM, by which services and containers are stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

INTERRUPTED = 130
# ``timeout`` and some shells send a signal to the process and to its group: both are one stop.
SAME_STOP_S = 0.5


def interrupt_on_sigterm() -> None:
    """Make SIGTERM raise KeyboardInterrupt in the main thread, as SIGINT does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def run_in_thread(work: Callable[[], T], *, on_stop: Callable[[], None], on_kill: Callable[[], None]) -> T:
    """Return or raise what ``work`` does in a new thread. For the main thread, which waits for it.

    A signal interrupts only this wait, so that no lock, import or database is left in the middle. The
    first signal has ``on_stop`` called, beside ``work``. The next one, up to the end of the process, has
    ``on_kill`` called and ends the process at once, with exit code 130. Neither function must raise.
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
        elif time.monotonic() - first_at > SAME_STOP_S:
            # A further signal ends the process even if ``on_kill`` waits for a terminal.
            signal.signal(number, signal.SIG_DFL)
            on_kill()
            os._exit(INTERRUPTED)

    signal.signal(signal.SIGTERM, receive)
    # A shell that starts a process in the background may have set SIGINT to be ignored.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, receive)
    Thread(target=copy_context().run, args=(run,), name="opencode-command", daemon=True).start()
    while events.get():
        on_stop()
    return result.result()
