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

    Both wait until no step of an import is under way in the main thread. Raised there it can leave
    the lock of all imports held: CPython (3.11) takes it before its ``try``, and lets go what is raised
    in the callback that takes it too. Each thread that imports something would then wait for ever.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    # Who starts us in the background may want SIGINT to be ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if frame is None or not frame.f_code.co_filename.startswith(IMPORT_MACHINERY):
        raise KeyboardInterrupt
    again = Timer(AGAIN_S, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


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
