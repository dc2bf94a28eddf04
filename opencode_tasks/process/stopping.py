"""How this process hears that it is to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from threading import Timer, current_thread, main_thread
from types import FrameType

# What the code of Python's own import machinery gives as its file.
IMPORT_MACHINERY = "<frozen importlib"
AGAIN_S = 0.02


def stop_as_by_ctrl_c() -> None:
    """Have SIGTERM, by which services and containers are stopped, raise KeyboardInterrupt as SIGINT does.

    Both wait until the main thread imports nothing. Raised in an import's own steps it can leave the
    lock of all imports held: CPython (3.11) takes it before its ``try``, and lets go what is raised
    in the callback that takes it too; each thread that imports something would then wait for ever.
    Raised in what a module does as it is loaded it can be lost: the start of modules in C (Cython's
    memory views) and bare ``except`` clauses swallow it, and the run would go on.
    """
    interrupt = _Interrupt()
    signal.signal(signal.SIGTERM, interrupt)
    # Who starts us in the background may want SIGINT to be ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)


class _Interrupt:
    """Raises KeyboardInterrupt, once for all signals that came while something was imported."""

    def __init__(self) -> None:
        self._again: Timer | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not _is_importing(frame):
            raise KeyboardInterrupt
        if self._again is None:
            self._again = Timer(AGAIN_S, self._send, (number,))
            self._again.daemon = True
            self._again.start()

    def _send(self, number: int) -> None:
        self._again = None
        os.kill(os.getpid(), number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(IMPORT_MACHINERY):
            return True
        frame = frame.f_back
    return False


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
