"""A call in a thread that ends soon after the coroutine that waits for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Event
from typing import TypeVar

T = TypeVar("T")


async def in_stoppable_thread(work: Callable[[Event], T]) -> T:
    """Call ``work`` in a thread and return its result.

    It gets an event that is set when this coroutine is cancelled, and must then return or raise soon: the
    cancellation waits for it, so that nothing of the call goes on after it.
    """
    stop = Event()
    call = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(call, return_exceptions=True)
        raise
