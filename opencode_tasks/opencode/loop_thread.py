"""An event loop in its own thread, on which other threads run coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

T = TypeVar("T")


class LoopThread:
    """A running event loop. ``submit`` and ``stop`` are safe to call from any other thread."""

    def __init__(self) -> None:
        """Start the loop."""
        self._calls: set[asyncio.Task[Any] | None] = set()
        self._is_stopping: Final = asyncio.Event()
        started = Future[asyncio.AbstractEventLoop]()
        self._thread: Final = threading.Thread(
            target=asyncio.run, args=(self._live(started),), name="opencode-loop", daemon=True
        )
        self._thread.start()
        self._loop: Final = started.result()

    def submit(self, function: Callable[..., Awaitable[T]], *args: Any) -> Future[T]:
        """Start a coroutine function; its result. Raises RuntimeError if the loop has ended."""
        call = self._call(function, *args)
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError:
            call.close()
            raise

    def stop(self) -> None:
        """End the loop after the calls that it runs, and wait for that."""
        self._loop.call_soon_threadsafe(self._is_stopping.set)
        self._thread.join()

    async def _call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        task = asyncio.current_task()
        self._calls.add(task)
        try:
            return await function(*args)
        finally:
            self._calls.discard(task)

    async def _live(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        started.set_result(asyncio.get_running_loop())
        await self._is_stopping.wait()
        while calls := [task for task in self._calls if task is not None]:
            await asyncio.wait(calls)
