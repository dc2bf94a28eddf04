"""Blocking calls of Prefect's functions, from any place.

Many functions of Prefect exist twice (``load`` and ``aload``). Prefect 3.8 decides by the place of the call
whether the first one blocks or returns a coroutine, which does nothing if it is not awaited. In an async
flow that also holds for the functions that it calls, whatever its caller chose: ``RunInput.save`` stores
nothing there. All code of this package blocks, in an async flow too. So it uses the second one alone, which
is always a coroutine, through ``call_blocking``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def call_blocking(function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Result of a coroutine function of Prefect, which runs on an event loop in its own thread.

    It sees the flow run and the settings of the caller. Raises what the function raises.
    """

    def run() -> T:
        return asyncio.run(function(*args, **kwargs))

    # The thread of the caller may have a running loop.
    with ThreadPoolExecutor(max_workers=1) as threads:
        return threads.submit(copy_context().run, run).result()
