"""How this process hears that it is to stop."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from threading import current_thread, main_thread


def stop_as_by_ctrl_c() -> None:
    """Have SIGTERM, by which services and containers are stopped, raise KeyboardInterrupt."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


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
